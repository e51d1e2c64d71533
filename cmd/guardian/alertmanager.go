package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/rules"
)

const (
	formatRoute  = "alertmanager"
	formatConfig = "alertmanagerconfig"
)

func newAlertmanagerCommand(a *app) *cobra.Command {
	var f configFlags
	var o rules.AlertmanagerOptions
	var format string
	cmd := &cobra.Command{
		Use:   "alertmanager -n NAMESPACE | -f guardian.yaml",
		Short: "Print the Alertmanager route by which alerts reach guardian",
		Long: `Print a route and a receiver for alertmanager.yml, or AlertmanagerConfigs for
prometheus-operator. They are the fastest that Alertmanager has: no grouping, no
waiting. Those of several namespaces and clusters can stand in one file.

With a configuration file they are what it needs: the port of listen.alerts, TLS and
proof as web.configFile and webhook.tokenFile demand them, labels as own has them, and
the alerts of alerts.matchers as well. How Alertmanager gets at its proof is said by
flags, as files or Secrets that it sees.`,
		Example: `  guardian alertmanager -n microservices --token-file /etc/alertmanager/guardian-token
  guardian alertmanager -f guardian.yaml --format alertmanagerconfig --token-secret guardian-token | kubectl apply -f -`,
		Args: wantArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			c, err := f.load(false)
			if err != nil {
				return err
			}
			o.Name, o.Namespace, o.Own, o.Labels = c.Rules.Name, c.Namespace, c.Own, c.Rules.Labels
			for _, g := range c.Guards {
				for _, m := range g.Alerts.Matchers {
					o.Matchers = append(o.Matchers, m.Match)
				}
			}
			if err := reachGuardian(c, &o, format); err != nil {
				return err
			}
			return a.printAlertmanager(o, format)
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&f.file, "config", "f", "", "guardian's configuration file")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "guardian's namespace (default: the file's)")
	fs.StringVar(&format, "format", formatRoute, formatRoute+" for alertmanager.yml, or "+formatConfig)
	fs.StringVar(&o.URL, "url", "", "guardian's webhook (default: http(s)://guardian.NAMESPACE:PORT/webhook, as the configuration has it)")
	fs.StringVar(&o.TokenFile, "token-file", "", "file with the bearer token, as Alertmanager's own container sees it")
	fs.StringVar(&o.Username, "username", "", "user of basic auth")
	fs.StringVar(&o.PasswordFile, "password-file", "", "file with that user's password")
	fs.StringVar(&o.CAFile, "ca-file", "", "file with the authority of guardian's certificate (default: the system's)")
	fs.StringVar(&o.CertFile, "cert-file", "", "file with Alertmanager's client certificate")
	fs.StringVar(&o.KeyFile, "key-file", "", "file with that certificate's key")
	fs.StringVar(&o.TokenSecret, "token-secret", "", "with alertmanagerconfig: Secret of its namespace that holds the bearer token")
	fs.StringVar(&o.TokenKey, "token-key", "token", "key of that Secret")
	fs.StringVar(&o.BasicAuthSecret, "basic-auth-secret", "", "with alertmanagerconfig: Secret with the keys username and password")
	fs.StringVar(&o.TLSSecret, "tls-secret", "", "with alertmanagerconfig: Secret with the key ca.crt, and tls.crt and tls.key where a client certificate is demanded")
	return cmd
}

// reachGuardian fills in the URL, and refuses a route that guardian would answer
// with 401.
func reachGuardian(c config.Config, o *rules.AlertmanagerOptions, format string) error {
	needs, err := webNeeds(c, o.URL != "")
	if err != nil {
		return err
	}
	if o.URL == "" {
		scheme := "http"
		if needs.TLS {
			scheme = "https"
		}
		_, port, err := net.SplitHostPort(c.Listen.Alerts)
		if err != nil {
			return fmt.Errorf("listen.alerts: %w", err) // Validate has refused it
		}
		o.URL = fmt.Sprintf("%s://guardian.%s:%s/webhook", scheme, c.Namespace, port)
	}
	o.ClientCert = needs.Certificate
	if format != formatRoute && format != formatConfig {
		return orUnknown(fmt.Errorf("--format %q: want %s or %s", format, formatRoute, formatConfig))
	}
	want := func(ok bool, key, flag string) {
		if !ok {
			err = errors.Join(err, fmt.Errorf("%s: guardian answers 401 without it: want %s", key, flag))
		}
	}
	if format == formatConfig {
		want(c.Webhook.TokenFile == "" || o.TokenSecret != "", "webhook.tokenFile", "--token-secret NAME, a Secret of namespace "+c.Namespace)
		want(!needs.BasicAuth || o.BasicAuthSecret != "", "web.configFile: basic_auth_users", "--basic-auth-secret NAME")
		want(!needs.Certificate || o.TLSSecret != "", "web.configFile: client_auth_type", "--tls-secret NAME")
		return orUnknown(err)
	}
	want(c.Webhook.TokenFile == "" || o.TokenFile != "", "webhook.tokenFile", "--token-file FILE, as Alertmanager's own container sees it")
	want(!needs.BasicAuth || o.Username != "" && o.PasswordFile != "", "web.configFile: basic_auth_users", "--username NAME and --password-file FILE")
	want(!needs.Certificate || o.CertFile != "" && o.KeyFile != "", "web.configFile: client_auth_type", "--cert-file FILE and --key-file FILE")
	return orUnknown(err)
}

// webNeeds reads web.configFile, which is where guardian runs: here it may be
// missing, and then the user has to tell.
func webNeeds(c config.Config, told bool) (alerting.WebNeeds, error) {
	if c.Web.ConfigFile == "" {
		return alerting.WebNeeds{}, nil
	}
	needs, err := alerting.ReadWebNeeds(c.Web.ConfigFile)
	if err != nil && !told {
		return needs, fmt.Errorf("web.configFile: it says whether there is TLS and what proof Alertmanager needs, and cannot be read here: want --url URL, and the flags for the proof: %w", err)
	}
	return needs, nil
}

func (a *app) printAlertmanager(o rules.AlertmanagerOptions, format string) error {
	var out []byte
	var err error
	files := o.TokenFile + o.Username + o.PasswordFile + o.CAFile + o.CertFile + o.KeyFile
	secrets := o.TokenSecret + o.BasicAuthSecret + o.TLSSecret
	switch {
	case format == formatRoute && secrets == "":
		out, err = rules.AlertmanagerRoute(o)
	case format == formatConfig && files == "":
		out, err = rules.AlertmanagerConfig(o, o.Name)
	case format == formatConfig:
		err = errors.New("--token-file and other files: want Secrets, as --token-secret: an AlertmanagerConfig takes its proof from there")
	default:
		err = errors.New("--token-secret, --basic-auth-secret, --tls-secret: want files, as --token-file: alertmanager.yml knows no Secrets")
	}
	if err != nil {
		return orUnknown(err) // the configuration has been checked: it is a flag
	}
	_, err = a.out.Write(out)
	return err
}
