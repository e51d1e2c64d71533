package virtualservice

import (
	"reflect"
	"testing"

	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
)

func TestNormalizeHostResolvesLikeIstio(t *testing.T) {
	for _, c := range []struct{ name, host, domain, want string }{
		{"a short name belongs to the object's namespace", "orders", "", "orders.prod.svc.cluster.local"},
		{"in a cluster with a domain of its own", "orders", "corp.internal", "orders.prod.svc.corp.internal"},
		{"a name with a namespace is taken as it is", "orders.shop", "", "orders.shop"},
		{"a full name is taken as it is", "orders.shop.svc.cluster.local", "", "orders.shop.svc.cluster.local"},
		{"a host outside is taken as it is", "api.example.com", "", "api.example.com"},
		{"a wildcard is taken as it is", "*", "", "*"},
		{"no host stays none", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := NormalizeHost(c.host, "prod", c.domain); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestSpellingsListEveryWayToNameADestination(t *testing.T) {
	v2 := Ref{Subset: "v2"}
	for _, c := range []struct {
		name string
		pair Pair
		ref  Ref
		want []string
	}{
		{"a short host", Pair{Host: "orders", Namespace: "prod"}, v2,
			[]string{"orders/v2", "orders.prod/v2", "orders.prod.svc/v2", "orders.prod.svc.cluster.local/v2"}},
		{"a full host of the namespace", Pair{Host: "orders.prod.svc.cluster.local", Namespace: "prod"}, v2,
			[]string{"orders/v2", "orders.prod/v2", "orders.prod.svc/v2", "orders.prod.svc.cluster.local/v2"}},
		{"a host of another namespace has no short name", Pair{Host: "orders.shop.svc.corp", Namespace: "prod", Domain: "corp"}, v2,
			[]string{"orders.shop/v2", "orders.shop.svc/v2", "orders.shop.svc.corp/v2"}},
		{"a host outside has one name", Pair{Host: "api.example.com", Namespace: "prod"}, v2, []string{"api.example.com/v2"}},
		{"a host of its own stands for all its subsets", Pair{Namespace: "prod"}, Ref{Host: "orders-v2"},
			[]string{"orders-v2/", "orders-v2.prod/", "orders-v2.prod.svc/", "orders-v2.prod.svc.cluster.local/"}},
		{"a wildcard has none", Pair{Host: "*.prod.svc.cluster.local", Namespace: "prod"}, v2, nil},
		{"an unknown host has none", Pair{Namespace: "prod"}, v2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Spellings(c.pair, c.ref); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestAWildcardRuleMatchesItsHostsOneAtATime(t *testing.T) {
	p := bySubset
	p.Host = "*.microservices.svc.cluster.local"
	one := ` [{route: [{destination: {host: orders, subset: v1}, weight: 9}, {destination: {host: orders, subset: v2}, weight: 1}]}]`
	if got, err := Inspect(vstest.Of(t, one), p, all); err != nil || got.Weight != 10 {
		t.Errorf("got %+v, %v", got, err)
	}
	two := ` [{route: [{destination: {host: orders, subset: v1}, weight: 9}, {destination: {host: payments, subset: v2}, weight: 1}]}]`
	if _, err := Inspect(vstest.Of(t, two), p, all); err == nil {
		t.Error("two hosts: no error")
	}
}

func TestDeniedAreTheCanaryAndItsHostWithoutASubset(t *testing.T) {
	for _, c := range []struct {
		name string
		pair Pair
		want []string
	}{
		{"two subsets", Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v2"}, Host: "a", Namespace: "n"},
			[]string{"a/v2", "a.n/v2", "a.n.svc/v2", "a.n.svc.cluster.local/v2", "a", "a.n", "a.n.svc", "a.n.svc.cluster.local"}},
		{"two hosts", Pair{Stable: Ref{Host: "a"}, Canary: Ref{Host: "b"}, Namespace: "n"}, []string{"b/", "b.n/", "b.n.svc/", "b.n.svc.cluster.local/"}},
		{"a canary's host", Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Host: "b"}, Host: "a", Namespace: "n"}, []string{"b/", "b.n/", "b.n.svc/", "b.n.svc.cluster.local/"}},
		{"a stable's host, outside the cluster", Pair{Stable: Ref{Host: "b"}, Canary: Ref{Subset: "v2"}, Host: "a.example.com", Namespace: "n"}, []string{"a.example.com/v2", "a.example.com"}},
		{"a wildcard", Pair{Stable: Ref{Subset: "v1"}, Canary: Ref{Subset: "v2"}, Host: "*.example.com", Namespace: "n"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Denied(c.pair); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestARefIsTheSameHoweverItsHostIsSpelled(t *testing.T) {
	for _, c := range []struct {
		a, b Ref
		want bool
	}{
		{Ref{Subset: "v1"}, Ref{Subset: "v1"}, true},
		{Ref{Subset: "v1"}, Ref{Subset: "v2"}, false},
		{Ref{Subset: "v1"}, Ref{Host: "v1"}, false},
		{Ref{Host: "orders"}, Ref{Host: "orders.shop.svc.example.org"}, true},
		{Ref{Host: "orders"}, Ref{Host: "orders.prod.svc.example.org"}, false},
		{Ref{Host: "orders"}, Ref{Host: "payments"}, false},
	} {
		if got := SameRef(c.a, c.b, "shop", "example.org"); got != c.want {
			t.Errorf("%s and %s: %t, want %t", c.a, c.b, got, c.want)
		}
	}
}
