package fileorder

import "testing"

func TestACircleOfFilesIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		b    string
		want string
	}{
		"by a function": {"package x\nimport \"fmt\"\nfunc low() { fmt.Println(top()) }", "a.go refers to low of b.go refers to top of a.go"},
		"by a method":   {"package x\nfunc low() { one{}.top() }", "a.go refers to low of b.go refers to one of a.go"},
		"none":          {"package x\nfunc low() {}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := "package x\ntype one struct{}\nfunc (one) top() int { return top() }\nfunc top() int { low(); return 1 }"
			refers, err := references(map[string]string{"a.go": a, "b.go": c.b})
			if err != nil {
				t.Fatal(err)
			}
			if got := circle(refers); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
