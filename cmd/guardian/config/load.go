package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	httpconfig "github.com/prometheus/common/config"
	"github.com/spf13/viper"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// serviceAccountNamespace is where Kubernetes tells a pod its namespace.
const serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// The variables that tell a pod of itself.
const (
	envPodNamespace   = "POD_NAMESPACE"
	envPodName        = "POD_NAME"
	envDeploymentName = "DEPLOYMENT_NAME"
)

// Load reads, completes and checks the configuration file. An empty path
// means defaults and environment alone. The error has every problem, one on
// each line.
func Load(path string) (Config, error) {
	return LoadWith(path, func(*Config) {})
}

// LoadWith is Load with flags that win over the file and the environment: flags gets
// the configuration before namespaces are completed and values are checked.
func LoadWith(path string, flags func(*Config)) (Config, error) {
	var b []byte
	if path != "" {
		var err error
		if b, err = os.ReadFile(path); err != nil {
			return Config{}, fmt.Errorf("read configuration: %w", err)
		}
	}
	c, err := parse(b, flags)
	if err != nil {
		return Config{}, InFile(cmp.Or(path, "of the environment"), err)
	}
	return c, nil
}

// InFile is an error of all that is wrong in a configuration, one on each line.
func InFile(path string, err error) error {
	return printable.OwnLines{Err: fmt.Errorf("configuration %s:\n%w", path, err)}
}

// Parse is Load of bytes. What is wrong with keys and values comes
// back as Problems.
func Parse(b []byte) (Config, error) {
	return parse(b, func(*Config) {})
}

func parse(b []byte, flags func(*Config)) (Config, error) {
	tree, err := parseTree(b)
	if err != nil {
		return Config{}, err
	}
	c := Default()
	d := decoder{fromEnv: map[string]string{}}
	d.decode("", layer(tree, c, d.fromEnv), reflect.ValueOf(&c).Elem())
	for i := range c.Guards {
		c.Guards[i].complete()
		c.Guards[i].Mode = cmp.Or(c.Guards[i].Mode, c.Mode)
	}
	set := c.Namespace
	if flags(&c); c.Namespace != set {
		delete(d.fromEnv, "namespace")
	}
	d.ofPod(&c)
	if c.Rules.Namespace == "" {
		c.Rules.Namespace = c.Namespace
	}
	if problems := append(d.problems, d.inEnv(unexplained(c.Validate(), d.problems))...); len(problems) > 0 {
		return Config{}, problems
	}
	return c, nil
}

// ofPod completes what the pod tells, and notes by which variable.
func (d *decoder) ofPod(c *Config) {
	note := func(path string, variables ...string) {
		for _, name := range variables {
			if os.Getenv(name) != "" {
				d.fromEnv[path] = name
				return
			}
		}
	}
	if c.Namespace == "" {
		c.Namespace = PodNamespace()
		note("namespace", envPodNamespace)
	}
	if c.Instance == "" {
		c.Instance = podInstance(os.Getenv(envDeploymentName), os.Getenv(envPodName))
		note("instance", envDeploymentName, envPodName)
	}
}

// inEnv adds to problems of values which variable has set them: in the file they are not.
func (d *decoder) inEnv(problems Problems) Problems {
	for i, p := range problems {
		if name, ok := d.fromEnv[p.Path]; ok {
			problems[i].Path += " (" + name + ")"
		}
	}
	return problems
}

// unexplained drops what Validate says about keys that could not be read, or
// that have such a key below them: their values are only what was left.
func unexplained(found, unread Problems) Problems {
	within := func(a, b string) bool {
		rest, ok := strings.CutPrefix(a, b)
		return ok && (rest == "" || strings.ContainsRune(".[ ", rune(rest[0])))
	}
	return slices.DeleteFunc(found, func(p Problem) bool {
		return slices.ContainsFunc(unread, func(q Problem) bool { return within(p.Path, q.Path) || within(q.Path, p.Path) })
	})
}

// layer puts the environment over the file over the defaults, for every key
// outside of lists and maps. viper does the layering, but the file's tree is
// what is decoded: viper lower-cases all keys, those of label maps included,
// and forgets the difference between "lok" and "lock" that the check for
// unknown keys needs.
func layer(tree map[string]any, defaults Config, fromEnv map[string]string) map[string]any {
	v := viper.New()
	v.AllowEmptyEnv(true)
	out := deepCopy(tree).(map[string]any)
	if err := v.MergeConfigMap(deepCopy(tree).(map[string]any)); err != nil {
		return out // the decoder names what is wrong with it
	}
	for path, value := range leaves("", reflect.ValueOf(defaults)) {
		v.SetDefault(path, value)
		env := EnvName(path)
		if _, set := os.LookupEnv(env); v.BindEnv(path, env) != nil || !set {
			continue
		}
		if setPath(out, strings.Split(path, "."), v.Get(path)) {
			fromEnv[path] = env
		}
	}
	return out
}

// EnvName is the variable that sets a key, by the key's path:
// GUARDIAN_HEARTBEAT_MAX_AGE for heartbeat.maxAge. Keys in lists and maps have none.
func EnvName(path string) string {
	var b strings.Builder
	b.WriteString("GUARDIAN_")
	for _, r := range path {
		switch {
		case r == '.':
			b.WriteByte('_')
		case unicode.IsUpper(r):
			b.WriteByte('_')
			b.WriteRune(r)
		default:
			b.WriteRune(unicode.ToUpper(r))
		}
	}
	return b.String()
}

// UnknownEnv names the environment's variables, sorted, that look like those of keys
// and are none: what they were to set is not set. Kubernetes itself sets some for a
// Service named guardian, which are left out.
func UnknownEnv() []string {
	known := map[string]bool{}
	for path := range leaves("", reflect.ValueOf(Default())) {
		known[EnvName(path)] = true
	}
	var out []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "GUARDIAN_") && !known[name] && !serviceEnv.MatchString(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

var serviceEnv = regexp.MustCompile(`^GUARDIAN_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// leaves is every scalar of a configuration by its key path.
func leaves(path string, v reflect.Value) map[string]any {
	out := map[string]any{}
	for f, value := range v.Fields() {
		at := join(path, yamlKey(f))
		switch {
		case f.Type == reflect.TypeFor[httpconfig.HTTPClientConfig]():
		case f.Type == reflect.TypeFor[time.Duration]():
			out[at] = value.Interface().(time.Duration).String()
		case f.Type.Kind() == reflect.Struct:
			for k, sub := range leaves(at, value) {
				out[k] = sub
			}
		case f.Type.Kind() != reflect.Slice && f.Type.Kind() != reflect.Map:
			out[at] = value.Interface()
		}
	}
	return out
}

// setPath puts value into the tree; false when the file has something else
// than a mapping on the way, which the decoder reports.
func setPath(tree map[string]any, path []string, value any) bool {
	for ; len(path) > 1; path = path[1:] {
		if tree[path[0]] == nil {
			tree[path[0]] = map[string]any{}
		}
		next, ok := tree[path[0]].(map[string]any)
		if !ok {
			return false
		}
		tree = next
	}
	tree[path[0]] = value
	return true
}

func deepCopy(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, sub := range t {
			out[k] = deepCopy(sub)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, sub := range t {
			out[i] = deepCopy(sub)
		}
		return out
	}
	return v
}

// PodNamespace is the namespace of the pod that this process runs in, by POD_NAMESPACE
// or the ServiceAccount's files; empty outside of a pod.
func PodNamespace() string {
	if namespace := os.Getenv(envPodNamespace); namespace != "" {
		return namespace
	}
	b, err := os.ReadFile(serviceAccountNamespace)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// podOfDeployment is a pod's name as a ReplicaSet of a Deployment makes it:
// NAME-HASH-SUFFIX, whose letters are those of Kubernetes' own generator.
var podOfDeployment = regexp.MustCompile(`^(.+)-[bcdfghjklmnpqrstvwxz2456789]{4,10}-[bcdfghjklmnpqrstvwxz2456789]{5}$`)

// podInstance is what all pods of a Deployment have in common: its name, as the
// environment or the pod's own tells it. A name that tells nothing is
// everybody's: a replica must never be taken for another guardian.
func podInstance(deployment, pod string) string {
	if deployment != "" {
		return deployment
	}
	if m := podOfDeployment.FindStringSubmatch(pod); m != nil {
		return m[1]
	}
	return decision.DefaultInstance
}

// RestartOnly is the keys that differ between two configurations and that a
// running guardian cannot change: what it listens on,
// connects with, and calls the objects that it writes.
func RestartOnly(was, is Config) []string {
	var keys []string
	for _, k := range []struct {
		key     string
		was, is any
	}{
		{"namespace", was.Namespace, is.Namespace},
		{"instance", was.Instance, is.Instance},
		{"own", was.Own, is.Own},
		{"clusterDomain", was.ClusterDomain, is.ClusterDomain},
		{"log", was.Log, is.Log},
		{"listen", was.Listen, is.Listen},
		{"web", was.Web, is.Web},
		{"page", was.Page, is.Page},
		{"webhook", was.Webhook, is.Webhook},
		{"prometheus", was.Prometheus, is.Prometheus},
		{"alertmanager", was.Alertmanager, is.Alertmanager},
		{"notifications", was.Notifications, is.Notifications},
		{"builds", was.Builds, is.Builds},
		{"rules.name", was.Rules.Name, is.Rules.Name},
		{"rules.namespace", was.Rules.Namespace, is.Rules.Namespace},
	} {
		if !reflect.DeepEqual(k.was, k.is) {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// RemovedGuards names the guards of was that is does not have any more, in the order
// of was.
func RemovedGuards(was, is Config) []string {
	var names []string
	for _, g := range was.Guards {
		if _, ok := is.Guard(g.Name); !ok {
			names = append(names, g.Name)
		}
	}
	return names
}
