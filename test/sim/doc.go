// Package sim runs the machines that decide on mastership (the gated virtual router, the leases, the record) in virtual time,
// with every host's clock at another rate and its time of day set back and forth, and with faults drawn from a seed. After every event it checks that no two hosts
// answer for the virtual address. One seed is one run, and gives the same run each time.
package sim
