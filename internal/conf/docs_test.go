package conf

import (
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocs: every keyword that is recognised stands in the table of docs/keepalived-compat.md, itself or by a pattern.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/keepalived-compat.md")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(string(text), -1) {
		words = append(words, strings.Fields(m[1])[0])
	}
	check := func(block string, names []string) {
		for _, name := range names {
			if !slices.ContainsFunc(words, func(w string) bool {
				ok, err := path.Match(w, name)
				return err == nil && ok && strings.Trim(w, "*") != ""
			}) {
				t.Errorf("%s of %q is not in the table", name, block)
			}
		}
	}
	// What has no effect is called read there, and nothing else is.
	rows := regexp.MustCompile("(?m)^\\| (`.*?) \\| (\\S.*?) \\|").FindAllStringSubmatch(string(text), -1)
	read := func(name string) (found, read bool) {
		for _, row := range rows {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
				if ok, err := path.Match(strings.Fields(m[1])[0], name); err == nil && ok {
					found, read = true, read || strings.HasPrefix(row[2], "read")
				}
			}
		}
		return found, read
	}
	idle := idleKeywords(rootKeywords())
	maps.Copy(idle, idleKeywords(globalKeywords()))
	for name := range idle {
		if found, read := read(name); !found || !read {
			t.Errorf("%s has no effect, and the table does not call it read", name)
		}
	}
	for _, row := range rows {
		if !strings.HasPrefix(row[2], "read") {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			word := strings.Fields(m[1])[0]
			if _, ok := idle[word]; !ok {
				t.Errorf("the table calls %s read, and it has an effect", word)
			}
		}
	}
	check("", suggestions(tableOf(rootKeywords())))
	check("global_defs", suggestions(tableOf(globalKeywords())))
	check("vrrp_script", suggestions(tableOf(scriptKeywords())))
	check("track_file", suggestions(tableOf(fileKeywords())))
	check("vrrp_track_process", suggestions(tableOf(processKeywords())))
	check("garp_group", suggestions(tableOf(garpGroupKeywords())))
	check("vrrp_instance", suggestions(tableOf(instanceKeywords())))
	check("authentication", suggestions(tableOf(authKeywords())))
	check("auth_hmac", suggestions(tableOf(hmacKeywords())))
	check("vrrp_sync_group", suggestions(tableOf(groupKeywords())))
	check("quorum", suggestions(tableOf(quorumKeywords())))
}
