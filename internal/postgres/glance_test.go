package postgres

import "testing"

// TestWhole: what was inserted at one look is whole once it is flushed at a later one; a position behind a page header counts from the page's start.
func TestWhole(t *testing.T) {
	const page = 8192
	one, two := Life{PID: 1, Ticks: 1}, Life{PID: 2, Ticks: 1}
	var w written
	for _, tt := range []struct {
		what                string
		life                Life
		insert, flush, want LSN
	}{
		{"the first look, all flushed", one, 1000, 1000, 1000},
		{"more is inserted than flushed", one, 3000, 2000, 1000},
		{"flushed beyond, within a record", one, 9000, 8192, 3000},
		{"not as far as the next", one, 9500, 8192, 3000},
		{"as far", one, 9900, 9100, 9000},
		{"the next record begins behind a page header", one, 2*page + 24, 2 * page, 9900},
		{"there", one, 3 * page, 2*page + 100, 2 * page},
		{"behind a segment's", one, 4*page + 40, 3 * page, 3 * page},
		{"there", one, 5 * page, 4*page + 100, 4 * page},
		{"its processes were restarted, and what was not flushed is gone", one, 4*page + 200, 4*page + 200, 4*page + 200},
		{"another life", two, 7000, 6000, 0},
		{"and on", two, 8000, 7500, 7000},
	} {
		if w = w.flushed(tt.life, tt.insert, tt.flush, page); w.whole != tt.want {
			t.Errorf("%s: got %d, want %d", tt.what, w.whole, tt.want)
		}
	}
}
