package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testNames are all tests and fuzz targets of the module.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(filepath.Join("..", ".."), func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(file)
		for _, m := range declared.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestEachThreatNamesTestsThatThereAre(t *testing.T) {
	_, table, found := strings.Cut(readDoc(t, "SECURITY.md"), "| threat | what holds | tests |\n|---|---|---|\n")
	if !found {
		t.Fatal("SECURITY.md has no table of threats")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	names, rows := testNames(t), strings.Split(table, "\n")
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		if len(cells) != 3 || cells[1] == "" {
			t.Errorf("%d cells: %s", len(cells), row)
			continue
		}
		tests := strings.Split(cells[2], ", ")
		for _, name := range tests {
			if bare := strings.Trim(name, "`"); "`"+bare+"`" != name || !names[bare] {
				t.Errorf("%s: no test %s", cells[0], name)
			}
		}
	}
	if len(rows) < 15 || len(names) < 500 {
		t.Errorf("%d threats, %d tests: this test looks at too little", len(rows), len(names))
	}
}
