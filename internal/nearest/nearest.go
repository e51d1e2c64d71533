// Package nearest finds the name that was meant by one that there is not.
package nearest

import (
	"cmp"
	"slices"
	"strings"
)

// Distance is Levenshtein's, of words short enough for a quadratic table.
func Distance(a, b string) int {
	const longest = 64
	a, b = a[:min(len(a), longest)], b[:min(len(b), longest)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Sort puts those of names first that are most like name: what begins with it, then what
// has it somewhere, then by the letters that differ, of which short names have few.
func Sort(names []string, name string) {
	rank := func(s string) int {
		switch {
		case strings.HasPrefix(s, name):
			return 0
		case strings.Contains(s, name):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(Distance(a, name), Distance(b, name)), strings.Compare(a, b))
	})
}
