package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dataLink is the name that the kubelet gives the link to a volume's present files.
const dataLink = "..data"

// content is the files of a volume, by their paths in it.
type content map[string]file

type file struct {
	text []byte
	mode fs.FileMode
}

func (c content) equal(other content) bool {
	return maps.EqualFunc(c, other, func(a, b file) bool { return a.mode == b.mode && string(a.text) == string(b.text) })
}

// token is one that the API server has issued, kept for most of its life.
type token struct {
	text  []byte
	renew time.Time
}

// volumes are those of one Pod.
type volumes struct {
	kubelet *Kubelet
	pod     *corev1.Pod
	tokens  map[string]token   // by volume and path
	written map[string]content // by folder
}

// content reads what a volume holds now.
func (v *volumes) content(ctx context.Context, volume corev1.Volume) (content, error) {
	switch s := volume.VolumeSource; {
	case s.EmptyDir != nil:
		return content{}, nil
	case s.ConfigMap != nil:
		return v.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, s.ConfigMap.DefaultMode)
	case s.Secret != nil:
		return v.secret(ctx, s.Secret.SecretName, s.Secret.Items, s.Secret.Optional, s.Secret.DefaultMode)
	case s.DownwardAPI != nil:
		return v.downward(s.DownwardAPI.Items, s.DownwardAPI.DefaultMode)
	case s.Projected != nil:
		return v.projected(ctx, volume.Name, s.Projected)
	}
	return nil, refused("volume %q: want a ConfigMap, a Secret, the downward API, a projected one or emptyDir", volume.Name)
}

func (v *volumes) projected(ctx context.Context, name string, projected *corev1.ProjectedVolumeSource) (content, error) {
	all := content{}
	for _, s := range projected.Sources {
		var one content
		var err error
		switch {
		case s.ServiceAccountToken != nil:
			one, err = v.serviceAccountToken(ctx, name, s.ServiceAccountToken, projected.DefaultMode)
		case s.ConfigMap != nil:
			one, err = v.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, projected.DefaultMode)
		case s.Secret != nil:
			one, err = v.secret(ctx, s.Secret.Name, s.Secret.Items, s.Secret.Optional, projected.DefaultMode)
		case s.DownwardAPI != nil:
			one, err = v.downward(s.DownwardAPI.Items, projected.DefaultMode)
		default:
			err = refused("volume %q: a source that is neither a token, a ConfigMap, a Secret nor the downward API", name)
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(all, one)
	}
	return all, nil
}

func (v *volumes) configMap(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool, mode *int32) (content, error) {
	cm, err := v.kubelet.client.CoreV1().ConfigMaps(v.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return content{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s: %w", name, err)
	}
	data := maps.Clone(cm.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for key, text := range cm.Data {
		data[key] = []byte(text)
	}
	return chosen("ConfigMap "+name, data, items, optional, mode)
}

func (v *volumes) secret(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool, mode *int32) (content, error) {
	s, err := v.kubelet.client.CoreV1().Secrets(v.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return content{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	return chosen("Secret "+name, s.Data, items, optional, mode)
}

// chosen are the files of those keys that a volume names, or of all.
func chosen(what string, data map[string][]byte, items []corev1.KeyToPath, optional *bool, mode *int32) (content, error) {
	out := content{}
	if len(items) == 0 {
		for key := range data {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		text, ok := data[item.Key]
		if !ok && (optional == nil || !*optional) {
			return nil, fmt.Errorf("%s has no key %q", what, item.Key)
		}
		out[item.Path] = file{text, modeOf(item.Mode, mode)}
	}
	return out, nil
}

func modeOf(own, general *int32) fs.FileMode {
	switch {
	case own != nil:
		return fs.FileMode(*own)
	case general != nil:
		return fs.FileMode(*general)
	}
	return 0o644
}

func (v *volumes) downward(items []corev1.DownwardAPIVolumeFile, mode *int32) (content, error) {
	out := content{}
	for _, item := range items {
		if item.FieldRef == nil {
			return nil, refused("%s: a field of resources", item.Path)
		}
		text, err := field(v.pod, "", item.FieldRef.FieldPath)
		if err != nil {
			return nil, err
		}
		out[item.Path] = file{[]byte(text), modeOf(item.Mode, mode)}
	}
	return out, nil
}

// serviceAccountToken gets a token that dies with the Pod, and a new one when a fifth of its life is left.
func (v *volumes) serviceAccountToken(ctx context.Context, volume string, p *corev1.ServiceAccountTokenProjection, mode *int32) (content, error) {
	key := volume + "/" + p.Path
	if t := v.tokens[key]; t.text == nil || time.Now().After(t.renew) {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: p.ExpirationSeconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: v.pod.Name, UID: v.pod.UID},
		}}
		if p.Audience != "" {
			request.Spec.Audiences = []string{p.Audience}
		}
		issued := time.Now()
		answer, err := v.kubelet.client.CoreV1().ServiceAccounts(v.pod.Namespace).CreateToken(ctx, v.pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("token of ServiceAccount %s: %w", v.pod.Spec.ServiceAccountName, err)
		}
		v.tokens[key] = token{[]byte(answer.Status.Token), issued.Add(answer.Status.ExpirationTimestamp.Sub(issued) * 4 / 5)}
	}
	return content{p.Path: {v.tokens[key].text, modeOf(nil, mode)}}, nil
}

// mount writes a Pod's volumes to where its containers have them, and again where their sources have changed.
func (v *volumes) mount(ctx context.Context, roots map[string]string) error {
	contents := map[string]content{}
	for _, volume := range v.pod.Spec.Volumes {
		c, err := v.content(ctx, volume)
		if err != nil {
			return err
		}
		contents[volume.Name] = c
	}
	for _, container := range v.pod.Spec.Containers {
		for _, m := range container.VolumeMounts {
			c, ok := contents[m.Name]
			if !ok || m.SubPath != "" || m.SubPathExpr != "" {
				return refused("mount of volume %q of container %q: a subPath, or no such volume", m.Name, container.Name)
			}
			folder := filepath.Join(roots[container.Name], filepath.FromSlash(m.MountPath))
			if before, ok := v.written[folder]; ok && before.equal(c) {
				continue
			}
			if isEmptyDir(v.pod, m.Name) {
				if err := errors.Join(os.MkdirAll(folder, 0o755), os.Chmod(folder, 0o777)); err != nil {
					return err
				}
				v.written[folder] = c
				continue
			}
			if err := c.write(folder, owner(v.pod)); err != nil {
				return fmt.Errorf("write volume %q: %w", m.Name, err)
			}
			v.written[folder] = c
		}
	}
	return nil
}

func isEmptyDir(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name && v.EmptyDir != nil })
}

// owner is the group that a Pod's volumes are for.
func owner(pod *corev1.Pod) int {
	if s := pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return int(*s.FSGroup)
	}
	return 0
}

// write exchanges a volume's files at once: they lie in a new folder, and one link to it is replaced.
func (c content) write(folder string, group int) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(folder, "..")
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		path := filepath.Join(fresh, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, c[name].text, 0o600); err != nil {
			return err
		}
		if err := give(path, group, c[name].mode); err != nil {
			return err
		}
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	before, _ := os.Readlink(filepath.Join(folder, dataLink))
	if err := relink(filepath.Base(fresh), filepath.Join(folder, dataLink)); err != nil {
		return err
	}
	for name := range c {
		top, _, _ := strings.Cut(name, "/")
		if err := os.Symlink(dataLink+"/"+top, filepath.Join(folder, top)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if before == "" {
		return nil
	}
	return errors.Join(c.removeFormer(folder), os.RemoveAll(filepath.Join(folder, before)))
}

// removeFormer removes the links to files that a volume no longer has.
func (c content) removeFormer(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	present := map[string]bool{}
	for name := range c {
		top, _, _ := strings.Cut(name, "/")
		present[top] = true
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !present[e.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(folder, e.Name())))
		}
	}
	return err
}

// give makes a file the group's, as fsGroup does, with the rights that it is said to have.
func give(path string, group int, mode fs.FileMode) error {
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 0, group); err != nil {
			return err
		}
		if group != 0 {
			mode |= 0o040
		}
	} else {
		mode |= 0o400 // the Pod's user is this one, in another namespace
	}
	return os.Chmod(path, mode)
}

func relink(to, link string) error {
	if err := os.Symlink(to, link+".new"); err != nil {
		return err
	}
	return os.Rename(link+".new", link)
}
