// Package picture draws dashboards as SVG, from their own layout and the data of a
// real Prometheus, where no Grafana can be had. It draws what Grafana's panels would
// have to say, at their places and in their colours, and does not look like Grafana.
package picture

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
	"time"
)

// Pixels of the grid, which is 24 columns wide.
const (
	columns = 24
	column  = 50
	row     = 30
	gap     = 8
	header  = 64 // above the grid
)

// Dashboard is what is drawn. Times are since the left edge of its panels.
type Dashboard struct {
	Title   string
	Caption string        // what drew it, of which data
	Span    time.Duration // from the left edge of each panel to the right one
	Step    time.Duration // between two points; a line is broken where there are none
	Panels  []Panel
	Marks   []Mark
}

// Panel is one of them. What its kind does not need is left out.
type Panel struct {
	Kind       string // row, stat, timeseries, state-timeline or table
	Title      string
	Unit       string // Grafana's name of it
	X, Y, W, H int    // of the grid
	Min, Max   *float64
	Bars       bool     // else lines
	NameOnly   bool     // of a stat: its value is its name
	Nothing    string   // why it has no data, if it has none
	Series     []Series // of a stat: each has one point
	Table      [][]string
}

// Series is one line. Of a state-timeline, each point is drawn for as long as a step.
type Series struct {
	Name, Color string // as CSS has it
	Dashed      bool
	Stepped     bool
	Points      []Point // in order
}

// Point is a value at a time.
type Point struct {
	At    time.Duration
	Value float64
	Color string // of a state-timeline, where the value has one of its own
}

// Mark is an annotation: vertical lines through all panels over time.
type Mark struct {
	Name, Color string
	At          []time.Duration
}

// canvas is what is drawn on.
type canvas struct{ bytes.Buffer }

// add writes an element.
func (c *canvas) add(format string, args ...any) { fmt.Fprintf(&c.Buffer, format+"\n", args...) }

// text writes a line of text, whose class is one of the style sheet's.
func (c *canvas) text(x, y float64, class, text string) {
	c.add(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, escaped(text))
}

func escaped(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a buffer takes all
	return b.String()
}

const style = `<style>
text { font-family: system-ui, sans-serif; font-size: 11px; fill: #24292e; }
.title { font-size: 13px; font-weight: 600; } .head { font-size: 18px; font-weight: 600; } .small { font-size: 10px; fill: #57606a; }
.right { text-anchor: end; font-size: 10px; fill: #57606a; } .middle { text-anchor: middle; font-size: 10px; fill: #57606a; } .tiny { font-size: 9px; fill: #57606a; } .big { font-size: 20px; font-weight: 600; }
</style>`

// SVG is the picture, a document of its own.
func (d Dashboard) SVG() []byte {
	bottom := 0
	for _, p := range d.Panels {
		bottom = max(bottom, p.Y+p.H)
	}
	width, height := columns*column+gap, header+bottom*row+gap
	c := &canvas{}
	c.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`, width, height, width, height, escaped(d.Title+": "+d.Caption))
	c.add("%s", style)
	c.add(`<rect width="%d" height="%d" fill="#f6f8fa"/>`, width, height)
	c.text(gap, 24, "head", d.Title)
	c.text(gap, 42, "small", d.Caption)
	d.nameMarks(c)
	for _, p := range d.Panels {
		d.draw(c, p)
	}
	c.add("</svg>")
	return c.Bytes()
}

// nameMarks says what the vertical lines are.
func (d Dashboard) nameMarks(c *canvas) {
	x := float64(gap)
	for _, m := range d.Marks {
		if len(m.At) == 0 {
			continue
		}
		c.add(`<rect x="%.1f" y="50" width="2" height="10" fill="%s"/>`, x, m.Color)
		c.text(x+6, 59, "small", m.Name)
		x += 16 + 6*float64(len(m.Name))
	}
}

// draw draws one panel.
func (d Dashboard) draw(c *canvas, p Panel) {
	b := box{float64(gap + p.X*column), float64(header + p.Y*row), float64(p.W*column - gap), float64(p.H*row - gap)}
	if p.Kind == "row" {
		c.text(b.x, b.y+15, "title", "▾ "+p.Title)
		return
	}
	c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="3" fill="#fff" stroke="#d0d7de"/>`, b.x, b.y, b.w, b.h)
	c.text(b.x+8, b.y+17, "title", p.Title)
	if len(p.Series) == 0 && len(p.Table) == 0 {
		for i, line := range wrapped("No data: "+p.Nothing, int(b.w/5.2)) {
			c.text(b.x+8, b.y+34+14*float64(i), "small", line)
		}
		return
	}
	switch p.Kind {
	case "stat":
		p.stat(c, b)
	case "table":
		p.table(c, b)
	case "state-timeline":
		d.timeline(c, p, b)
	default:
		d.plot(c, p, b)
	}
}

// wrapped breaks a text between words into lines of at most so many letters.
func wrapped(text string, most int) []string {
	var lines []string
	for _, word := range strings.Fields(text) {
		if last := len(lines) - 1; last >= 0 && len(lines[last])+1+len(word) <= most {
			lines[last] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}

// box is a rectangle in pixels.
type box struct{ x, y, w, h float64 }

// stat writes each value with its name.
func (p Panel) stat(c *canvas, b box) {
	wide := b.w / float64(len(p.Series))
	for i, s := range p.Series {
		x, value := b.x+8+float64(i)*wide, s.Name
		if len(s.Points) > 0 && !p.NameOnly {
			value = Format(p.Unit, s.Points[0].Value)
		}
		c.add(`<text x="%.1f" y="%.1f" class="big" style="fill: %s">%s</text>`, x, b.y+52, s.Color, escaped(value))
		c.text(x, b.y+72, "tiny", s.Name)
	}
}

// table writes cells, the first row as the head.
func (p Panel) table(c *canvas, b box) {
	for i, cells := range p.Table {
		class := ""
		if i == 0 {
			class = "small"
		}
		for j, cell := range cells {
			c.text(b.x+8+float64(j)*(b.w-16)/float64(len(cells)), b.y+40+20*float64(i), class, cell)
		}
	}
}
