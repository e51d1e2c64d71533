package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// columnGap is how many spaces are between two columns, and leastColumn how narrow one
// of them is cut.
const (
	columnGap   = 2
	leastColumn = 6
)

// proseIndent is where text begins that has lines of its own below its row.
const proseIndent = "    "

// columnsOf is how wide a table may be: as the terminal is; 0 where no person looks at
// one, so that a pipe or a log gets each cell whole.
func columnsOf(w io.Writer) int {
	if !watched(w) {
		return 0
	}
	return width(w)
}

// table is rows of cells, the first of them its header or not.
type table struct {
	rows   [][]string
	indent string
	whole  int  // the first columns, which are never cut: names that are to be copied
	late   int  // the first columns, of which those behind whole are cut when nothing else can be
	prose  bool // the last column is text, which is never cut
}

// layOut is the table in lines of at most so many columns, if that can be done; 0: as
// wide as it is. What is too wide is cut, the widest cells first, and ends in an
// ellipsis; prose has lines of its own then.
func (t table) layOut(columns int) string {
	widths := t.widths()
	below := false
	if columns > 0 && t.total(widths) > columns {
		if below = t.prose; below {
			widths = widths[:len(widths)-1]
		}
		t.narrow(widths, columns)
	}
	var out strings.Builder
	for _, row := range t.rows {
		prose := ""
		if below {
			prose, row = row[len(row)-1], row[:len(row)-1]
		}
		out.WriteString(t.line(row, widths) + "\n")
		if below {
			out.WriteString(wrap(prose, t.indent+proseIndent, columns))
		}
	}
	return out.String()
}

// widths are those of the widest cells.
func (t table) widths() []int {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

func (t table) total(widths []int) int {
	total := len(t.indent) + columnGap*(len(widths)-1)
	for _, w := range widths {
		total += w
	}
	return total
}

// narrow takes from the widest column until all fit, or none can be cut any more.
func (t table) narrow(widths []int, columns int) {
	for _, first := range []int{max(t.late, t.whole), t.whole} {
		for t.total(widths) > columns {
			widest := first
			for i := first; i < len(widths); i++ {
				if widths[i] > widths[widest] {
					widest = i
				}
			}
			if widest >= len(widths) || widths[widest] <= leastColumn {
				break
			}
			widths[widest]--
		}
	}
}

func (t table) line(row []string, widths []int) string {
	var out strings.Builder
	out.WriteString(t.indent)
	for i, cell := range row {
		cell = cut(cell, widths[i])
		out.WriteString(cell)
		if i < len(row)-1 {
			out.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+columnGap))
		}
	}
	return out.String()
}

// wrap is text in lines that end between words; a word that is too long for a line, such
// as a link, is not cut.
func wrap(text, indent string, columns int) string {
	var out strings.Builder
	at := 0
	for _, word := range strings.Fields(text) {
		long := utf8.RuneCountInString(word)
		switch {
		case at == 0:
			out.WriteString(indent)
			at = len(indent)
		case at+1+long > columns:
			out.WriteString("\n" + indent)
			at = len(indent)
		default:
			out.WriteString(" ")
			at++
		}
		out.WriteString(word)
		at += long
	}
	if at > 0 {
		out.WriteString("\n")
	}
	return out.String()
}
