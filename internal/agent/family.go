package agent

import (
	"net/netip"
	"slices"
	"sync"

	"pgvrrp/internal/control"
)

// family is who the data nodes are and where their servers are to be found.
type family struct {
	mu    sync.Mutex
	self  string
	addrs map[string][]netip.Addr
	ports map[string]int
	good  map[string]netip.Addr // where a node answered last
	port  int                   // our own server's
}

// keptFamily is what an agent knows of the nodes while vrrpd does not answer.
type keptFamily struct {
	Self  string                  `json:"self"`
	Nodes map[string][]netip.Addr `json:"nodes"`
}

func newFamily(port int) *family {
	return &family{addrs: map[string][]netip.Addr{}, ports: map[string]int{}, good: map[string]netip.Addr{}, port: port}
}

// nodesOf takes the data nodes out of vrrpd's status.
func nodesOf(q *control.Quorum) keptFamily {
	f := keptFamily{Self: q.Node, Nodes: map[string][]netip.Addr{}}
	for _, v := range q.Voters {
		if v.Witness {
			continue
		}
		for _, text := range v.Addresses {
			if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(f.Nodes[v.Node], a) {
				f.Nodes[v.Node] = append(f.Nodes[v.Node], a)
			}
		}
	}
	return f
}

// peers are the other data nodes, in order.
func (k keptFamily) peers() []string {
	var all []string
	for n := range k.Nodes {
		if n != k.Self {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

func (f *family) set(k keptFamily) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.self, f.addrs = k.Self, k.Nodes
}

// tell notes at which port a node's server listens.
func (f *family) tell(node string, port int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if port > 0 {
		f.ports[node] = port
	}
}

// answered notes where a node was reached.
func (f *family) answered(node string, at netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.good[node] = at
}

// at is where a node's server is: the address that answered last is first.
func (f *family) at(node string) (all []netip.Addr, port int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if port = f.ports[node]; port == 0 {
		port = f.port
	}
	all = slices.Clone(f.addrs[node])
	if k := slices.Index(all, f.good[node]); k > 0 {
		all[0], all[k] = all[k], all[0]
	}
	return all, port
}

// node is whose an address is; the text itself if nobody's.
func (f *family) node(host string) string {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, addrs := range f.addrs {
		if slices.Contains(addrs, a.Unmap()) {
			return n
		}
	}
	return host
}
