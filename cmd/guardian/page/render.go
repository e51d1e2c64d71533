package page

import (
	"bytes"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// document is HTML as it is written. The packages for templates would be half of
// guardian's binary: they call methods by name, so that the linker must keep all.
type document struct{ bytes.Buffer }

// putf adds HTML. Each value is escaped, as text and as an attribute in double
// quotes: its verb is %s, whatever it is.
func (d *document) putf(format string, values ...any) {
	escaped := make([]any, len(values))
	for i, v := range values {
		escaped[i] = html.EscapeString(printable.Line(fmt.Sprint(v)))
	}
	fmt.Fprintf(d, format, escaped...)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// begin is what comes before a page's own part.
func (p *Page) begin(title string) *document {
	d := new(document)
	d.putf(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s · guardian</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script>
</head>
<body>
<header><a href="/">guardian</a> · namespace %s · <span id="as-of">as of %s</span> · <span id="live" role="status">not live</span></header>
<main>
`, title, p.o.Namespace, stamp(p.o.Now()))
	return d
}

// end is what comes after it.
func (p *Page) end(d *document) {
	d.putf("</main>\n<footer>guardian %s. This page shows, and changes nothing.</footer>\n</body>\n</html>\n", p.o.Version)
}

// table begins one with these columns; a class comes after a bar.
func (d *document) table(columns ...[2]string) {
	d.putf("<table>\n<thead><tr>")
	for _, c := range columns {
		d.putf(`<th scope="col" class="%s">%s</th>`, c[1], c[0])
	}
	d.putf("</tr></thead>\n<tbody>\n")
}

func (d *document) endTable() { d.putf("</tbody>\n</table>\n") }

// state is a guard's, in the colour of how urgent it is.
func (d *document) state(element string, s decision.State, seen bool) {
	text := string(s)
	switch {
	case !seen:
		text = "not looked at yet"
	case s == decision.StateUnknown:
		text = "unknown"
	}
	d.putf(`<%s class="state %s">%s</%s>`, element, badge(s), text, element)
}

// row is a guard in the table of all.
func (d *document) row(g Guard, next string, now time.Time) {
	why := g.Status.Reason
	if g.Lock != nil {
		why = g.Lock.Reason
	}
	if next != "" {
		why += " Next: " + next
	}
	if g.Failing != "" {
		why = "The last look at it failed: " + g.Failing + ". Shown is where it stood before."
	}
	d.putf(`<tr><td><a id="guard-%s" href="/guards/%s">%s</a></td>`, g.Name, url.PathEscape(g.Name), g.Name)
	d.state("td", g.Status.State, g.Seen)
	weight := "–"
	if g.Seen {
		weight = fmt.Sprintf("%d%%", g.Status.Weight)
	}
	d.putf(`<td class="number">%s</td><td class="time">%s</td><td>%s</td></tr>`+"\n", weight, ago(g.Status.Since, now), why)
}

func (d *document) facts(facts []Fact) {
	d.putf("<dl>")
	for _, f := range facts {
		if f.Name != "" {
			d.putf("<dt>%s</dt>", f.Name)
		}
		d.putf("<dd>%s</dd>\n", f.Value)
	}
	d.putf("</dl>\n")
}

func (d *document) chart(c chart) {
	if !c.Known() {
		return
	}
	d.putf(`<h2>Traffic of the canary</h2>
<svg viewBox="0 0 %s %s" role="img" aria-label="%s">
`, chartWidth, chartHeight, c.Says)
	for _, percent := range []int{100, 50, 0} {
		d.putf(`<line class="grid" x1="0" x2="%s" y1="%s" y2="%s"/>`, chartWidth, level(percent), level(percent))
	}
	d.putf("\n"+`<polyline points="%s"/>`+"\n", c.Points)
	for _, m := range c.Marks {
		d.putf(`<circle cx="%s" cy="%s" r="5"><title>%s</title></circle>`+"\n", m.X, m.Y, m.Says)
	}
	d.putf(`<text x="2" y="%s">100%%</text><text x="2" y="%s">50%%</text><text x="2" y="%s">%s</text><text x="%s" y="%s" text-anchor="end">%s</text>
</svg>
`, level(100)+14, level(50)-4, chartHeight-6, stamp(c.From), chartWidth-2, chartHeight-6, stamp(c.To))
}

func (d *document) commands(all []Command) {
	d.putf("<h2>What you can do</h2>\n")
	for _, c := range all {
		d.command("do", c)
	}
}

// command is one with a button. What has the keyboard's focus keeps it by its id when the
// page is brought up to date: so the id says what the button is for, within a part.
func (d *document) command(part string, c Command) {
	d.putf(`<p class="command"><span>%s:</span> <code>%s</code><button type="button" id="%s" data-copy="%s" aria-label="Copy: %s">Copy</button></p>`+"\n",
		c.For, c.Line, part+"-"+slug(c.For), c.Line, c.For)
}

// slug is a text as part of an id.
func slug(text string) string {
	return strings.Trim(notInSlug.ReplaceAllString(strings.ToLower(text), "-"), "-")
}

var notInSlug = regexp.MustCompile(`[^a-z0-9]+`)

// history is a record's, newest first.
func (d *document) history(entries []decision.HistoryEntry) {
	d.putf("<h2>History</h2>\n")
	if len(entries) == 0 {
		d.putf("<p>Nothing has happened yet.</p>\n")
		return
	}
	d.table([2]string{"When"}, [2]string{"What"}, [2]string{"Canary", "number"}, [2]string{"By", "wide"}, [2]string{"Why"})
	for _, e := range entries {
		weights := fmt.Sprintf("%d%%", e.To)
		if e.From != e.To {
			weights = fmt.Sprintf("%d%% → %d%%", e.From, e.To)
		}
		d.putf(`<tr><td class="time"><time datetime="%s">%s</time></td><td>%s</td><td class="number">%s</td><td class="wide">%s</td><td>%s</td></tr>`+"\n",
			stamp(e.At), stamp(e.At), e.Event, weights, e.By, decision.Repeated(e))
	}
	d.endTable()
}
