package kubelet

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probe runs the startup probe, then the other two side by side; it returns when all have ended.
func (c *container) probe(all, life context.Context) {
	if p := c.spec.StartupProbe; p != nil {
		if !c.watch(life, p, func(ok bool) bool { return ok }) {
			c.unhealthy(all, life)
			return
		}
	}
	c.set(func() { c.started = true })
	done := make(chan struct{})
	go func() {
		defer close(done)
		if p := c.spec.LivenessProbe; p != nil {
			if !c.watch(life, p, func(bool) bool { return false }) {
				c.unhealthy(all, life)
			}
		}
	}()
	if p := c.spec.ReadinessProbe; p != nil {
		for all.Err() == nil { // it never gives up
			c.watch(all, p, func(ok bool) bool { c.set(func() { c.ready = ok }); return false })
			c.set(func() { c.ready = false })
		}
	} else {
		c.set(func() { c.ready = true })
	}
	<-done
}

// set changes what the status says.
func (c *container) set(change func()) {
	c.mu.Lock()
	before := [2]bool{c.started, c.ready}
	if c.running {
		change()
	}
	changed := before != [2]bool{c.started, c.ready}
	c.mu.Unlock()
	if changed {
		c.worker.notify()
	}
}

// unhealthy ends a container whose probe has failed too often; it starts again by its restart policy.
func (c *container) unhealthy(all, life context.Context) {
	if life.Err() != nil {
		return
	}
	grace := 30 * time.Second
	if s := c.worker.present().Spec.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	c.worker.kubelet.ended.Go(func() { c.stop(all, grace) })
}

// watch asks a probe in its rhythm. It returns true when enough says that a run of successes is, and false after as
// many failures as the probe forgives, or when ctx ends.
func (c *container) watch(ctx context.Context, p *corev1.Probe, enough func(ok bool) bool) bool {
	wait := time.NewTimer(time.Duration(p.InitialDelaySeconds) * time.Second)
	defer wait.Stop()
	successes, failures := int32(0), int32(0)
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return false
		}
		one, cancel := context.WithTimeout(ctx, time.Duration(max(1, p.TimeoutSeconds))*time.Second)
		err := c.request(one, p.HTTPGet)
		cancel()
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			successes, failures = successes+1, 0
			if successes >= max(1, p.SuccessThreshold) && enough(true) {
				return true
			}
		} else if successes, failures = 0, failures+1; failures >= max(1, p.FailureThreshold) {
			return false
		}
		wait.Reset(time.Duration(max(1, p.PeriodSeconds)) * time.Second)
	}
}

// request sends a probe's or a hook's request; an answer of 200 to 399 is a success.
func (c *container) request(ctx context.Context, get *corev1.HTTPGetAction) error {
	port, err := portOf(c.spec, get.Port)
	if err != nil {
		return err
	}
	host := c.worker.ip
	if get.Host != "" {
		host = get.Host
	}
	scheme := "http"
	if get.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(Address(host), strconv.Itoa(port))+get.Path, nil)
	if err != nil {
		return err
	}
	for _, h := range get.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // as the kubelet
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("%s", response.Status)
	}
	return nil
}

func portOf(spec corev1.Container, port intstr.IntOrString) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for _, p := range spec.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort), nil
		}
	}
	return 0, fmt.Errorf("container %q has no port %q", spec.Name, port.StrVal)
}
