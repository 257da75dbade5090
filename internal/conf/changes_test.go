package conf

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

// Every field has a keyword, and every keyword is one.
func TestChangesKnowsEveryField(t *testing.T) {
	known := map[string]bool{"vrrp_instance": true, "vrrp_sync_group": true, "net_namespace": true, "instance": true}
	for _, name := range append(suggestions(tableOf(instanceKeywords())), suggestions(tableOf(globalKeywords()))...) {
		known[name] = true
	}
	var fields func(words map[string]string, typ reflect.Type)
	seen := map[string]bool{}
	fields = func(words map[string]string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			switch word := words[f.Name]; {
			case f.Type == posType:
			case word != "":
				seen[f.Name] = true
				if !known[word] {
					t.Errorf("%s.%s: %q is no keyword", typ, f.Name, word)
				}
			case f.Type.Kind() == reflect.Struct:
				fields(words, f.Type)
			default:
				t.Errorf("%s.%s has no keyword", typ, f.Name)
			}
		}
	}
	for typ, words := range map[reflect.Type]map[string]string{reflect.TypeFor[Instance](): instanceWords, reflect.TypeFor[Globals](): globalWords} {
		clear(seen)
		fields(words, typ)
		for name := range words {
			if !seen[name] {
				t.Errorf("%s has no field %s", typ, name)
			}
		}
	}
}

func TestChanges(t *testing.T) {
	base := func() Instance {
		return Instance{Name: "VI_1", Priority: 100, Garp: Garp{MasterRepeat: 5}, Addresses: []Address{{Prefix: netip.MustParsePrefix("192.0.2.1/24")}}}
	}
	for _, tt := range []struct {
		name   string
		change func(*Instance)
		want   []string
	}{
		{"nothing", func(*Instance) {}, nil},
		{"another line of the file", func(i *Instance) { i.Pos.Line, i.Addresses[0].Pos.Line = 9, 10 }, nil},
		{"priority", func(i *Instance) { i.Priority = 1 }, []string{"priority"}},
		{"in the order of the documentation", func(i *Instance) {
			i.Hooks.Master.Argv, i.Garp.MasterRepeat, i.AdvertInterval = []string{"/bin/true"}, 1, time.Second
		}, []string{"advert_int", "garp_master_repeat", "notify_master"}},
		{"two fields of one keyword", func(i *Instance) { i.Password, i.HasPassword = "x", true }, []string{"authentication"}},
		{"an option of an address", func(i *Instance) { i.Addresses[0].Label = "eth0:1" }, []string{"virtual_ipaddress"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := base(), base()
			tt.change(&b)
			if got := a.Changes(&b); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got, want := a.Equal(&b), len(tt.want) == 0; got != want {
				t.Errorf("Equal: got %t, want %t", got, want)
			}
		})
	}
	a, b := Globals{CPUAffinity: []int{1}}, Globals{CPUAffinity: []int{2}, NoSwap: true}
	if got, want := a.Changes(&b), []string{"vrrp_no_swap", "vrrp_cpu_affinity"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A member does as its group says, unless it says something itself.
func TestNotifyPriorityChangesOfAGroup(t *testing.T) {
	file := func(globals, group, member string) string {
		return "global_defs {\n" + globals + "\n}\nvrrp_sync_group G {\ngroup {\nA\nB\n}\n" + group + "\n}\n" +
			"vrrp_instance A {\ninterface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n192.0.2.1\n}\n" + member + "\n}\n" +
			"vrrp_instance B {\ninterface eth0\nvirtual_router_id 2\nvirtual_ipaddress {\n192.0.2.2\n}\n}\n"
	}
	const global, yes, no = "vrrp_notify_priority_changes", "notify_priority_changes", "notify_priority_changes no"
	for _, tt := range []struct {
		name, globals, group, member string
		a, b                         bool
	}{
		{"nothing", "", "", "", false, false},
		{"global", global, "", "", true, true},
		{"group", "", yes, "", true, true},
		{"the group is silent", global, no, "", false, false},
		{"the member speaks", "", no, yes, true, false},
		{"the member is silent", global, yes, no, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load(file(tt.globals, tt.group, tt.member))
			wantDiags(t, diags)
			if got, want := [2]bool{c.Instances[0].NotifyPriorityChanges, c.Instances[1].NotifyPriorityChanges}, [2]bool{tt.a, tt.b}; got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
