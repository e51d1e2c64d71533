package main

import (
	"cmp"
	"io"
	"os"

	"golang.org/x/term"
)

// watched says whether a person looks at a terminal. Some CIs give their steps one, and
// keep all that is written to it: there a line that is written over and over is one
// long line, and GitHub does not see the annotation behind it.
func watched(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("CI") == "" && term.IsTerminal(int(f.Fd()))
}

// width of a terminal; one that does not tell is as wide as all once were.
func width(w io.Writer) int {
	columns := 0
	if f, ok := w.(*os.File); ok {
		columns, _, _ = term.GetSize(int(f.Fd()))
	}
	return cmp.Or(columns, 80)
}

// cut makes a line fit: one that wraps cannot be written over.
func cut(line string, columns int) string {
	runes := []rune(line)
	if len(runes) <= columns || columns < 2 {
		return line
	}
	return string(runes[:columns-1]) + "…"
}
