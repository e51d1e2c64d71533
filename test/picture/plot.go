package picture

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Margins of a plot within its panel, in pixels.
const (
	left, right, top, bottom = 62, 12, 28, 40
	names                    = 190 // of a state-timeline's rows
	ticks                    = 4
)

// frame is a plot's area, and what its edges mean.
type frame struct {
	box
	span   time.Duration
	lo, hi float64
}

func (f frame) across(at time.Duration) float64 {
	return f.x + f.w*float64(at)/float64(f.span)
}

func (f frame) up(value float64) float64 {
	return f.y + f.h*(1-(value-f.lo)/(f.hi-f.lo))
}

// limits are the ends of a panel's vertical axis.
func (p Panel) limits() (lo, hi float64) {
	for _, s := range p.Series {
		for _, at := range s.Points {
			lo, hi = min(lo, at.Value), max(hi, at.Value)
		}
	}
	hi = nice(hi)
	if p.Min != nil {
		lo = *p.Min
	}
	if p.Max != nil {
		hi = *p.Max
	}
	if hi <= lo {
		hi = lo + 1
	}
	return lo, hi
}

// nice is the next number above that is easily divided by the ticks.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	size := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 2, 4, 6, 8} {
		if v <= step*size {
			return step * size
		}
	}
	return 10 * size
}

// plot draws lines or bars over time.
func (d Dashboard) plot(c *canvas, p Panel, b box) {
	lo, hi := p.limits()
	f := frame{box{b.x + left, b.y + top, b.w - left - right, b.h - top - bottom}, d.Span, lo, hi}
	for i := range ticks + 1 {
		v := lo + (hi-lo)*float64(i)/ticks
		c.add(`<path d="M%.1f %.1fh%.1f" stroke="#eaeef2"/>`, f.x, f.up(v), f.w)
		c.text(f.x-6, f.up(v)+3, "right", Format(p.Unit, v))
	}
	d.clock(c, f)
	for _, s := range p.Series {
		if p.Bars {
			d.bars(c, f, s)
		} else {
			d.line(c, f, s)
		}
	}
	d.marks(c, f)
	legend(c, p.Series, b)
}

// clock writes the times below a plot.
func (d Dashboard) clock(c *canvas, f frame) {
	every := 15 * time.Second
	for f.span/every > 12 {
		every *= 2
	}
	for at := time.Duration(0); at <= f.span; at += every {
		c.add(`<path d="M%.1f %.1fv4" stroke="#8c959f"/>`, f.across(at), f.y+f.h)
		c.text(f.across(at), f.y+f.h+14, "middle", fmt.Sprintf("%d:%02d", int(at.Minutes()), int(at.Seconds())%60))
	}
}

func (d Dashboard) marks(c *canvas, f frame) {
	for _, m := range d.Marks {
		for _, at := range m.At {
			c.add(`<path d="M%.1f %.1fv%.1f" stroke="%s" stroke-dasharray="3 3"/>`, f.across(at), f.y, f.h, m.Color)
		}
	}
}

// line draws a series, with a gap wherever it has none for more than a step.
func (d Dashboard) line(c *canvas, f frame, s Series) {
	var path strings.Builder
	for i, at := range s.Points {
		x, y := f.across(at.At), f.up(at.Value)
		switch {
		case s.level(i, d.Step):
		case i == 0 || at.At-s.Points[i-1].At > d.Step:
			fmt.Fprintf(&path, "M%.1f %.1fh0.5", x, y)
		case s.Stepped:
			fmt.Fprintf(&path, "H%.1fV%.1f", x, y)
		default:
			fmt.Fprintf(&path, "L%.1f %.1f", x, y)
		}
	}
	dash := ""
	if s.Dashed {
		dash = ` stroke-dasharray="8 6"`
	}
	c.add(`<path d="%s" fill="none" stroke="%s" stroke-width="1.5"%s/>`, path.String(), s.Color, dash)
}

// level says that a point lies on the straight way between its neighbours.
func (s Series) level(i int, step time.Duration) bool {
	if i == 0 || i == len(s.Points)-1 {
		return false
	}
	before, at, after := s.Points[i-1], s.Points[i], s.Points[i+1]
	return at.Value == before.Value && at.Value == after.Value && at.At-before.At <= step && after.At-at.At <= step
}

func (d Dashboard) bars(c *canvas, f frame, s Series) {
	for i := 0; i < len(s.Points); {
		n := s.together(i, d.Step)
		if from, to := s.Points[i], s.Points[i+n-1]; from.Value > 0 {
			c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" fill-opacity="0.6"/>`, f.across(from.At), f.up(from.Value),
				min(f.across(to.At+d.Step), f.x+f.w)-f.across(from.At), f.y+f.h-f.up(from.Value), s.Color)
		}
		i += n
	}
}

// legend names the series, as many as there is room for.
func legend(c *canvas, series []Series, b box) {
	x, y := b.x+10, b.y+b.h-8
	for i, s := range series {
		wide := 24 + 5.6*float64(len(s.Name))
		if x+wide > b.x+b.w-30 && i > 0 {
			c.text(x, y, "small", fmt.Sprintf("and %d more", len(series)-i))
			return
		}
		c.add(`<path d="M%.1f %.1fh12" stroke="%s" stroke-width="3"/>`, x, y-3, s.Color)
		c.text(x+16, y, "small", s.Name)
		x += wide
	}
}

// timeline draws a row for each series, coloured while it has a value.
func (d Dashboard) timeline(c *canvas, p Panel, b box) {
	f := frame{box{b.x + names, b.y + top, b.w - names - right, b.h - top - 24}, d.Span, 0, float64(len(p.Series))}
	high := min(f.h/float64(len(p.Series)), 30)
	for i, s := range p.Series {
		y := f.y + float64(i)*high
		c.text(f.x-6, y+high/2+3, "right", s.Name)
		for j := 0; j < len(s.Points); {
			n := s.together(j, d.Step)
			from, to := s.Points[j], s.Points[j+n-1]
			color := from.Color
			if color == "" {
				color = s.Color
			}
			c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" fill-opacity="0.7"/>`, f.across(from.At), y+high*0.1, min(f.across(to.At+d.Step), f.x+f.w)-f.across(from.At), high*0.8, color)
			j += n
		}
	}
	d.clock(c, f)
	d.marks(c, f)
}

// together is how many points from one on follow each other with the same value.
func (s Series) together(first int, step time.Duration) int {
	n := 1
	for first+n < len(s.Points) && s.Points[first+n].Value == s.Points[first].Value && s.Points[first+n].At-s.Points[first+n-1].At <= step {
		n++
	}
	return n
}

// Format is a number with its unit, by Grafana's name of that.
func Format(unit string, v float64) string {
	short := func(v float64) string { return fmt.Sprintf("%.3g", v) }
	switch unit {
	case "percent":
		return short(v) + "%"
	case "percentunit":
		return short(100*v) + "%"
	case "s":
		if math.Abs(v) < 1 && v != 0 {
			return short(1000*v) + " ms"
		}
		return short(v) + " s"
	case "reqps":
		return short(v) + " req/s"
	case "cps":
		return short(v) + " c/s"
	case "bytes":
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	case "dateTimeFromNow":
		return fmt.Sprintf("%.0f s ago", time.Since(time.UnixMilli(int64(v))).Seconds())
	}
	return short(v)
}
