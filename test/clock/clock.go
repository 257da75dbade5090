// Package clock makes times whose wall clock was set: what compares them by anything but their monotonic reading shows.
package clock

import (
	"time"
	"unsafe"
)

// parts are those of a time.Time that has a monotonic reading; TestAt sees to it that they still are.
type parts struct {
	wall uint64 // bit 63 set; seconds since 1885 (33 bits), nanoseconds (30 bits)
	ext  int64  // the monotonic reading
	loc  *time.Location
}

// since1885 is 1 January 1885 in seconds of Unix.
var since1885 = time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// At is the moment at which the monotonic clock shows mono and the wall clock shows wall, as time.Now would give it. Wall lies between
// 1885 and 2157.
func At(mono time.Duration, wall time.Time) time.Time {
	var t time.Time
	*(*parts)(unsafe.Pointer(&t)) = parts{
		wall: 1<<63 | uint64(wall.Unix()-since1885)<<30 | uint64(wall.Nanosecond()),
		ext:  int64(mono),
		loc:  time.Local,
	}
	return t
}

// Steps is a wall clock that is set by up to two hours, either way, at moments that follow from its seed: at some of its steps it is
// right again.
type Steps struct {
	Seed  uint64
	Every time.Duration // how long it runs between two steps; 0: it is never set
}

// span is how far the wall clock goes wrong.
const span = 2 * time.Hour

// Off is how far the wall clock is off when the monotonic one shows mono.
func (s Steps) Off(mono time.Duration) time.Duration {
	if s.Every <= 0 {
		return 0
	}
	x := mix(s.Seed)
	x = mix(x + uint64((mono+time.Duration(x%uint64(s.Every)))/s.Every))
	switch x % 4 {
	case 0:
		return span
	case 1:
		return -span
	case 2:
		return 0
	}
	return time.Duration(mix(x)%uint64(2*span)) - span
}

// At is the time when the monotonic clock shows mono.
func (s Steps) At(mono time.Duration) time.Time {
	return At(mono, time.Unix(1_700_000_000, 0).Add(mono+s.Off(mono)))
}

// mix is splitmix64's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
