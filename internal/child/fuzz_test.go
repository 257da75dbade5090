package child

import "testing"

// FuzzLimits: any text gives limits of resources that exist.
func FuzzLimits(f *testing.F) {
	f.Add([]byte("Max cpu time              unlimited            unlimited            seconds\nMax open files            1024                 4096                 files\n"))
	f.Add([]byte("Max cpu time -1 99999999999999999999\nMax"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for resource := range parseLimits(text) {
			if limitName(resource) == "" {
				t.Errorf("limit of resource %d", resource)
			}
		}
	})
}
