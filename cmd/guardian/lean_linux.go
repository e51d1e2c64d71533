package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// unmapProgram takes the pages of the running program out of this process's
// page tables. The start reads nearly all of them once, which is half of the
// process's size, and hardly any again. They stay in the kernel's page cache,
// from where those that are needed come back, some microseconds each. A mapping
// that can be written to, or holds a page that differs from the file, is left
// alone.
func unmapProgram() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	mappings, err := readMappings(bufio.NewScanner(f), program)
	if err != nil {
		return fmt.Errorf("read /proc/self/smaps: %w", err)
	}
	for _, m := range mappings {
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise %x-%x: %w", m.from, m.to, errno)
		}
	}
	return nil
}

type mapping struct{ from, to uintptr }

// readMappings finds the mappings of a file that are the same as the file and
// cannot become different.
func readMappings(smaps *bufio.Scanner, file string) ([]mapping, error) {
	var out []mapping
	var at mapping
	var wanted bool
	for smaps.Scan() {
		fields := strings.Fields(smaps.Text())
		if len(fields) < 2 {
			continue
		}
		switch from, to, ok := strings.Cut(fields[0], "-"); {
		case ok && !strings.HasSuffix(fields[0], ":"): // 00400000-02239000 r-xp 00000000 fd:00 12 /usr/bin/guardian
			if _, err := fmt.Sscanf(from+" "+to, "%x %x", &at.from, &at.to); err != nil {
				return nil, fmt.Errorf("%q: %w", smaps.Text(), err)
			}
			wanted = len(fields) == 6 && fields[5] == file && (fields[1] == "r-xp" || fields[1] == "r--p")
		case fields[0] == "Anonymous:" && wanted && fields[1] == "0":
			out = append(out, at)
		}
	}
	return out, smaps.Err()
}
