package trust

import (
	"errors"
	"fmt"
)

// MaxName is the greatest length of a voter's id in bytes.
const MaxName = 128

// CheckName says why id cannot name a voter: 1 to MaxName letters, digits, '-', '_', '.', and the '/' of a second vote
// ("w1/2").
func CheckName(id string) error {
	switch {
	case id == "":
		return errors.New("voter id is empty")
	case len(id) > MaxName:
		return fmt.Errorf("voter id of %d bytes is longer than %d", len(id), MaxName)
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '/':
		default:
			return fmt.Errorf("voter id %q has an impossible character", id)
		}
	}
	return nil
}
