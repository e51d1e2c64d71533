// Command release makes what a release of guardian is: the image, the charts, archives of the program, SBOMs and
// checksums. It needs Go alone: no container engine, no network but for the modules, and with -push a registry.
//
//	release image -out dist        the image, as an OCI layout
//	release charts -out dist       the charts
//	release all   -out dist        everything
//	release registry               runs a registry in memory, for tests, and prints its address
//
// What it makes depends on the sources and the version alone: the same bytes each time.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// options is what a release is made from, and to where.
type options struct {
	root      string // of the repository
	out       string
	version   string // without v
	push      string // registry and path, as registry.example/team; empty: nothing is pushed
	program   string // to take instead of building one
	insecure  bool   // the registry has no TLS
	platforms []platform
}

// platform is an operating system and an architecture.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// archives are the platforms of the program; images those of the image.
var archives = []platform{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command: want image, charts, all or registry")
	}
	if args[0] == "registry" {
		return serveRegistry(ctx)
	}
	var o options
	var platforms string
	f := flag.NewFlagSet("release "+args[0], flag.ContinueOnError)
	f.StringVar(&o.root, "root", ".", "folder of the repository")
	f.StringVar(&o.out, "out", "dist", "folder to write to")
	f.StringVar(&o.version, "version", "", "of the release (default: the chart's appVersion)")
	f.StringVar(&o.push, "push", "", "registry and path to push to, such as registry.example/team")
	f.BoolVar(&o.insecure, "insecure", false, "the registry has no TLS")
	f.StringVar(&o.program, "program", "", "a program to put into the image, instead of building one")
	f.StringVar(&platforms, "platforms", "linux/amd64,linux/arm64", "of the image")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if err := o.complete(platforms); err != nil {
		return err
	}
	switch args[0] {
	case "image":
		return o.image(ctx)
	case "charts":
		made, err := o.charts(ctx)
		if err != nil {
			return err
		}
		return o.checksums(made)
	case "all":
		return o.all(ctx)
	}
	return fmt.Errorf("command %q: want image, charts, all or registry", args[0])
}

var versionPattern = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

func (o *options) complete(platforms string) error {
	var err error
	if o.root, err = filepath.Abs(o.root); err != nil {
		return err
	}
	if !filepath.IsAbs(o.out) {
		o.out = filepath.Join(o.root, o.out)
	}
	if o.version == "" {
		chart, err := readChart(filepath.Join(o.root, "charts", "guardian"))
		if err != nil {
			return err
		}
		o.version = chart.AppVersion
	}
	o.version = strings.TrimPrefix(o.version, "v")
	if !versionPattern.MatchString(o.version) {
		return fmt.Errorf("-version %q: want a semantic version such as 1.2.3", o.version)
	}
	for text := range strings.SplitSeq(platforms, ",") {
		system, arch, ok := strings.Cut(text, "/")
		if !ok || system != "linux" {
			return fmt.Errorf("-platforms %q: want linux/amd64, linux/arm64 or both with a comma", platforms)
		}
		o.platforms = append(o.platforms, platform{system, arch})
	}
	return os.MkdirAll(o.out, 0o755)
}

// all makes everything, and the checksums of what is to be handed out.
func (o *options) all(ctx context.Context) error {
	if err := o.image(ctx); err != nil {
		return err
	}
	var made []string
	for _, p := range archives {
		files, err := o.archive(ctx, p)
		if err != nil {
			return err
		}
		made = append(made, files...)
	}
	charts, err := o.charts(ctx)
	if err != nil {
		return err
	}
	return o.checksums(append(made, charts...))
}
