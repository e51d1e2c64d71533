package main

import (
	"bufio"
	"reflect"
	"strings"
	"testing"
)

func TestOnlyPagesThatAreTheProgramsFileAreGivenBack(t *testing.T) {
	smaps := `00400000-02239000 r-xp 00000000 fd:00 12                       /usr/bin/guardian
Size:              30948 kB
Rss:               23012 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
02239000-047aa000 r--p 01e39000 fd:00 12                       /usr/bin/guardian
Rss:               29504 kB
Anonymous:             4 kB
047aa000-04800000 r--p 043aa000 fd:00 12                       /usr/bin/guardian
Anonymous:             0 kB
04800000-0486f000 rw-p 04400000 fd:00 12                       /usr/bin/guardian
Anonymous:             0 kB
c000000000-c004000000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000200000 r-xp 00000000 fd:00 99               /lib/libc.so.6
Anonymous:             0 kB
7f0000200000-7f0000400000 r--p 00000000 fd:00 12               /usr/bin/guardian (deleted)
Anonymous:             0 kB
`
	got, err := readMappings(bufio.NewScanner(strings.NewReader(smaps)), "/usr/bin/guardian")
	if err != nil {
		t.Fatal(err)
	}
	if want := []mapping{{0x400000, 0x2239000}, {0x47aa000, 0x4800000}}; !reflect.DeepEqual(got, want) {
		t.Errorf("gives back %x, want %x: neither what was written to nor what can be, and no other file", got, want)
	}
}

func TestTheProgramGoesOnWithoutItsPages(t *testing.T) {
	if err := unmapProgram(); err != nil {
		t.Error(err)
	}
}
