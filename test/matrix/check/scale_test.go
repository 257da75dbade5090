package check

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgvrrp/test/lab/meter"
)

// TestRegistersScale: the search ends soon for as long a history as a cell has, with more lost answers than one has, whether what they asked
// for came or not.
func TestRegistersScale(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var ops []meter.RegisterOp
	v, now := int64(0), time.Duration(0)
	for k := range 4000 {
		now += 5 * time.Millisecond
		op := meter.RegisterOp{Client: k % 2, Read: k%4 > 1, Call: now, Return: now + 4*time.Millisecond + time.Duration(r.IntN(3))*time.Millisecond, Known: true}
		if k%500 == 100 || k%500 == 101 {
			op.Read, op.Known = false, false
			if k%2 == 0 {
				v++
			}
		} else if !op.Read {
			v++
		}
		op.Value = v
		ops = append(ops, op)
	}
	began := time.Now()
	if err := Registers(ops); err != nil {
		t.Error(err)
	}
	t.Logf("%d operations took %s", len(ops), time.Since(began))
}
