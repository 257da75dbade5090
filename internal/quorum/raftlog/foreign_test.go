package raftlog

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func TestForeign(t *testing.T) {
	members := func(ids ...string) (all []raft.Server) {
		for _, id := range ids {
			all = append(all, raft.Server{ID: serverID(id, "1")})
		}
		return all
	}
	of := func(cluster string, ids ...string) map[string]string {
		all := map[string]string{}
		for _, id := range ids {
			all[id] = cluster
		}
		return all
	}
	for _, tt := range []struct {
		name    string
		cluster string
		members []raft.Server
		answers []string // of our cluster
		others  map[string]string
		want    string // "": at home
	}{
		{"nobody else is heard", "x", members("n1"), nil, nil, ""},
		{"one is elsewhere, and we are alone", "x", members("n1"), nil, of("y", "n2"), "n2 is part of cluster y"},
		{"two are elsewhere", "x", members("n1"), nil, of("y", "n3", "n2"), "n2, n3 are part of cluster y"},
		{"of two other clusters the larger one counts", "x", members("n1"), nil, map[string]string{"n2": "z", "n3": "y", "w1": "y"}, "n3, w1 are part of cluster y"},
		{"a witness from elsewhere, and we are two", "x", members("n1", "n2", "n3"), []string{"n2"}, of("y", "w1"), ""},
		{"two witnesses from elsewhere, and we are two", "x", members("n1", "n2", "n3"), []string{"n2"}, of("y", "w1", "w2"), "w1, w2 are part of cluster y"},
		{"members of ours have strayed", "x", members("n1", "n2", "n3"), nil, of("y", "n2", "n3"), ""},
		{"an operator's word is above it", forcedPrefix + "x", members("n1"), nil, of("y", "n2", "n3"), ""},
		{"no cluster yet", "", nil, nil, of("y", "n2", "n3"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answers := map[string]Hello{}
			for _, id := range tt.answers {
				answers[id] = Hello{ID: id, Cluster: tt.cluster}
			}
			got := foreign(Hello{ID: "n1", Cluster: tt.cluster}, tt.members, answers, tt.others)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) || got != "" && !strings.Contains(got, "cluster x,") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
