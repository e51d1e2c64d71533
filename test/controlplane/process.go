package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTimeout is how long a program may take until it is ready. It is generous because a busy machine is no fault of
// the program; one that ends instead is noticed at once.
const startTimeout = 90 * time.Second

// Program describes a child process.
type Program struct {
	// Name tells processes of a plane apart, and names the log file.
	Name string
	// Path of the executable.
	Path string
	// Args without the program's name.
	Args []string
	// Env is added to the environment; with a Root it is the whole of it.
	Env []string
	// Root is the folder that the program sees as /, Path included; empty: the machine's. It needs Linux, and root's
	// rights or unprivileged user namespaces.
	Root string
	// User is its uid and gid there, if Root is set.
	User int
	// Ready is asked again and again until it returns nil; nil means ready at once. Its last error is reported when it
	// never does.
	Ready func(context.Context) error
}

// Process is a running child of a plane, in a process group of its own.
type Process struct {
	program Program
	log     string
	cmd     *exec.Cmd
	ended   chan struct{}
	err     error // of Wait; valid once ended is closed
	family  *family
}

// Pid is the process's id, which is also its group's.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Log is the path of the file that holds what the process printed, also over restarts.
func (p *Process) Log() string { return p.log }

// Tail returns the last lines of the log.
func (p *Process) Tail(lines int) string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(content), lines)
}

// ExitCode is that of a process that has ended, and -1 where a signal ended it.
func (p *Process) ExitCode() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the process group.
func (p *Process) Signal(signal syscall.Signal) error {
	select {
	case <-p.ended: // its id may be somebody else's by now
		return nil
	default:
	}
	if err := syscall.Kill(-p.Pid(), signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.program.Name, err)
	}
	return nil
}

// Kill ends the process group at once and waits until the process is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL)
	<-p.ended
}

// Stop asks the process to end, kills it after ten seconds, and returns when it is gone.
func (p *Process) Stop() {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
	}
	p.Kill()
}

// awaitReady returns when the process is ready, has ended, or has had its time.
func (p *Process) awaitReady(ctx context.Context) error {
	if p.program.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := poll(ctx, func(ctx context.Context) error {
		select {
		case <-p.ended:
			return permanent{fmt.Errorf("it ended: %w", errors.Join(p.err, errEnded))}
		default:
			return p.program.Ready(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("start %s: %w\nthe end of its log:\n%s", p.program.Name, err, p.Tail(25))
	}
	return nil
}

var errEnded = errors.New("process ended before it was ready")

// permanent is an error that polling does not cure.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// poll calls check until it returns nil or a permanent error, or the context ends.
func poll(ctx context.Context, check func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		var stop permanent
		if err == nil || errors.As(err, &stop) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; last seen: %w", ctx.Err(), err)
		}
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// family starts children that cannot outlive this process. Two mechanisms back each other up:
//
//   - On Linux every child asks the kernel to be killed with the thread that started it. Threads come and go in Go, so
//     all are started by one goroutine that keeps its thread until the family is dissolved.
//   - A shell reads process groups from a pipe. The pipe ends when this process does, however it ends; then the shell
//     kills the groups that it was told of and removes the folder.
type family struct {
	folder string
	starts chan func()
	over   chan struct{}
	keeper *exec.Cmd
	pipe   io.WriteCloser

	mu        sync.Mutex
	processes map[*Process]bool
}

// keeperScript removes the folder twice because a dying process may still write into it.
const keeperScript = `trap '' HUP INT QUIT TERM
groups=
while read -r verb group; do
  case $verb in
  born) groups="$groups $group" ;;
  dead) rest=
    for g in $groups; do [ "$g" = "$group" ] || rest="$rest $g"; done
    groups=$rest ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g"; done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
`

// newFamily creates the folder of a plane and the keeper that removes it.
func newFamily() (*family, error) {
	folder, err := os.MkdirTemp("", "guardian-controlplane-")
	if err != nil {
		return nil, err
	}
	keeper := exec.Command("/bin/sh", "-c", keeperScript, "keeper", folder)
	keeper.Dir = "/"
	keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of reach of ctrl-C
	pipe, err := keeper.StdinPipe()
	if err == nil {
		err = keeper.Start()
	}
	if err != nil {
		_ = os.RemoveAll(folder)
		return nil, fmt.Errorf("start the keeper of %s: %w", folder, err)
	}
	f := &family{folder: folder, starts: make(chan func()), over: make(chan struct{}), keeper: keeper, pipe: pipe,
		processes: map[*Process]bool{}}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		for {
			select {
			case start := <-f.starts:
				start()
			case <-f.over:
				return
			}
		}
	}()
	return f, nil
}

// start starts a program and waits until it is ready. It is gone again when an error is returned.
func (f *family) start(ctx context.Context, program Program) (*Process, error) {
	p, err := f.spawn(program)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program.Name, err)
	}
	if err := p.awaitReady(ctx); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// spawn starts a program and does not wait for it.
func (f *family) spawn(program Program) (*Process, error) {
	log := filepath.Join(f.folder, program.Name+".log")
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }()
	p := &Process{program: program, log: log, ended: make(chan struct{}), family: f}
	p.cmd = exec.Command(program.Path, program.Args...)
	p.cmd.Dir = f.folder
	p.cmd.Env = append(os.Environ(), program.Env...)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = childAttributes()
	if program.Root != "" {
		p.cmd.Dir, p.cmd.Env = "/", program.Env
		if err := confine(p.cmd.SysProcAttr, program.Root, program.User); err != nil {
			return nil, err
		}
	}

	started := make(chan error, 1)
	select {
	case f.starts <- func() { started <- p.cmd.Start() }:
	case <-f.over:
		return nil, errors.New("the control plane has been stopped")
	}
	if err := <-started; err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.processes[p] = true
	_, _ = fmt.Fprintf(f.pipe, "born %d\n", p.Pid())
	f.mu.Unlock()
	go func() {
		p.err = p.cmd.Wait()
		f.mu.Lock()
		delete(f.processes, p)
		_, _ = fmt.Fprintf(f.pipe, "dead %d\n", p.Pid())
		f.mu.Unlock()
		close(p.ended)
	}()
	return p, nil
}

// dissolve kills every process, waits for them, and removes the folder. It may be called twice.
func (f *family) dissolve() {
	f.mu.Lock()
	select {
	case <-f.over:
		f.mu.Unlock()
		return
	default:
		close(f.over)
	}
	var left []*Process
	for p := range f.processes {
		left = append(left, p)
	}
	f.mu.Unlock()
	for _, p := range left {
		_ = p.Signal(syscall.SIGKILL)
	}
	for _, p := range left {
		<-p.ended
	}
	_ = f.pipe.Close()
	_ = f.keeper.Wait()
}
