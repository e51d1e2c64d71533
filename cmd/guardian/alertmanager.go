package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/rules"
)

func newAlertmanagerCommand(a *app) *cobra.Command {
	var f configFlags
	var o rules.AlertmanagerOptions
	var format string
	cmd := &cobra.Command{
		Use:   "alertmanager -n NAMESPACE | -f guardian.yaml",
		Short: "Print the Alertmanager route by which alerts reach guardian",
		Long: `Print a route and a receiver for alertmanager.yml, or an AlertmanagerConfig for
prometheus-operator. They are the fastest that Alertmanager has: no grouping, no
waiting. With a configuration file the alerts of alerts.matchers are routed as well.`,
		Example: `  guardian alertmanager -n microservices --token-file /etc/alertmanager/guardian-token
  guardian alertmanager -f guardian.yaml --format alertmanagerconfig --token-secret guardian-token | kubectl apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := f.load(false)
			if err != nil {
				return err
			}
			if o.URL == "" {
				o.URL = fmt.Sprintf("http://guardian.%s:8080/webhook", c.Namespace)
			}
			o.Name = c.Rules.Name
			for _, g := range c.Guards {
				for _, m := range g.Alerts.Matchers {
					o.Matchers = append(o.Matchers, m.Match)
				}
			}
			return a.printAlertmanager(c, o, format)
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&f.file, "config", "f", "", "guardian's configuration file, for alerts.matchers")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "guardian's namespace (default: the file's)")
	fs.StringVar(&format, "format", "alertmanager", "alertmanager for alertmanager.yml, or alertmanagerconfig")
	fs.StringVar(&o.URL, "url", "", "guardian's webhook (default: http://guardian.NAMESPACE:8080/webhook)")
	fs.StringVar(&o.TokenFile, "token-file", "", "file with the bearer token, as Alertmanager's own container sees it")
	fs.StringVar(&o.TokenSecret, "token-secret", "", "with alertmanagerconfig: Secret of its namespace that holds the bearer token")
	fs.StringVar(&o.TokenKey, "token-key", "token", "key of that Secret")
	return cmd
}

func (a *app) printAlertmanager(c Config, o rules.AlertmanagerOptions, format string) error {
	var out []byte
	var err error
	switch {
	case format == "alertmanager" && o.TokenSecret == "":
		out, err = rules.AlertmanagerRoute(o)
	case format == "alertmanagerconfig" && o.TokenFile == "":
		out, err = rules.AlertmanagerConfig(o, c.Rules.Name, c.Namespace)
	case format == "alertmanager":
		err = fmt.Errorf("--token-secret %q: want --token-file: alertmanager.yml knows no Secrets", o.TokenSecret)
	case format == "alertmanagerconfig":
		err = fmt.Errorf("--token-file %q: want --token-secret: an AlertmanagerConfig takes the token from a Secret", o.TokenFile)
	default:
		err = fmt.Errorf("--format %q: want alertmanager or alertmanagerconfig", format)
	}
	if err != nil {
		return err
	}
	_, err = a.out.Write(out)
	return err
}
