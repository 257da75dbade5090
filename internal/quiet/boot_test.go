package quiet

import "testing"

func TestBootTime(t *testing.T) {
	a := BootTime()
	b := BootTime()
	if a <= 0 || b < a {
		t.Errorf("got %s and then %s, want a time since boot that goes on", a, b)
	}
}
