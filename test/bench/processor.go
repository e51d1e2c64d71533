package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

// processor is the processor time that programs have used.
type processor struct{ guardian, apiServer, etcd, bench time.Duration }

// used is what has been used until now.
func (b *bench) used() (p processor, err error) {
	pids := b.plane.Pids()
	for pid, to := range map[int]*time.Duration{b.proc.Pid(): &p.guardian, pids["kube-apiserver"]: &p.apiServer, pids["etcd"]: &p.etcd, os.Getpid(): &p.bench} {
		if *to, err = processorTime(pid); err != nil {
			return p, err
		}
	}
	return p, nil
}

// timed says how long something takes, and who has used the processors meanwhile.
func (b *bench) timed(do func() error) (took time.Duration, used processor, err error) {
	was, err := b.used()
	if err != nil {
		return 0, used, err
	}
	began := time.Now()
	err = do()
	if took = time.Since(began); err != nil {
		return took, used, err
	}
	is, err := b.used()
	return took, is.since(was), err
}

// since is what was used from then on.
func (p processor) since(was processor) processor {
	return processor{p.guardian - was.guardian, p.apiServer - was.apiServer, p.etcd - was.etcd, p.bench - was.bench}
}

func (p processor) and(o processor) processor {
	return processor{p.guardian + o.guardian, p.apiServer + o.apiServer, p.etcd + o.etcd, p.bench + o.bench}
}

// print prints where the time of a burst goes, as far as it is not waited for. The API
// server has the objects of all services in memory, so that to collect its garbage once
// takes as long as some hundred writes: whether that falls into the one or the other is
// chance, and several runs tell.
func (p processor) print(who string) {
	for _, of := range []struct {
		program string
		used    time.Duration
	}{{"guardian", p.guardian}, {"kube-apiserver", p.apiServer}, {"etcd", p.etcd}, {"bench", p.bench}} {
		row("processor time, "+who+": "+of.program, "%.2f s", "", of.used.Seconds())
	}
}

// processorTime is what a process has used, from /proc/<pid>/stat.
func processorTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, nil
}
