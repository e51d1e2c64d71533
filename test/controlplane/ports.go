package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// Ports are taken from below the range that the kernel uses for outgoing connections, so that a port stays free for
// its program while that restarts.
const firstPort, lastPort = 15000, 31999

// FreePort returns a port of 127.0.0.1 on which nothing listens.
func FreePort() (int, error) {
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		listener, err := net.Listen("tcp", address(port))
		if err != nil {
			continue
		}
		return port, listener.Close()
	}
	return 0, fmt.Errorf("find a free port of 127.0.0.1 between %d and %d: 100 tries failed", firstPort, lastPort)
}

func address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// onFreePort starts a program on a free port, and on another one when somebody else was quicker.
func onFreePort(ctx context.Context, start func(ctx context.Context, port int) (*Process, error)) (*Process, int, error) {
	for attempt := 1; ; attempt++ {
		port, err := FreePort()
		if err != nil {
			return nil, 0, err
		}
		process, err := start(ctx, port)
		if err == nil {
			return process, port, nil
		}
		if attempt == 3 || !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "address already in use") {
			return nil, 0, err
		}
	}
}
