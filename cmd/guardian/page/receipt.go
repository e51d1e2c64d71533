package page

import (
	"net/url"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// Receipt is what is known of a guard's last rollback, as `guardian receipt` shows it.
type Receipt struct {
	Title    string
	Sections []Section
	Links    []decision.Link
	Next     string // what happens next
	Command  string // to go on
}

// Section is a part of a receipt. A fact without a name goes on with the one before.
type Section struct {
	Name  string
	Facts []Fact
}

func (d *document) receipt(r *Receipt) {
	if r == nil {
		return
	}
	d.putf("<h2 id=\"receipt\">Last rollback</h2>\n<p>%s</p>\n", r.Title)
	for _, s := range r.Sections {
		d.putf("<h3>%s</h3>\n", s.Name)
		d.facts(s.Facts)
	}
	d.links(r.Links)
	d.putf("<h3>Next</h3>\n<p>%s</p>\n", r.Next)
	d.command("receipt", Command{"To go on", r.Command})
}

// links leads to web interfaces. Where an address is not one of the web's it is left
// out: a record is what others may have written.
func (d *document) links(all []decision.Link) {
	begun := false
	for _, l := range all {
		u, err := url.Parse(l.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" {
			continue
		}
		if !begun {
			d.putf("<h3>Links</h3>\n<ul>\n")
			begun = true
		}
		d.putf("<li><a id=\"link-%s\" href=\"%s\" rel=\"noreferrer\">%s</a></li>\n", slug(l.Name), l.URL, l.Name)
	}
	if begun {
		d.putf("</ul>\n")
	}
}
