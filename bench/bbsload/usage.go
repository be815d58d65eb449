package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is a process tree whose use of the machine is reported.
type proc struct {
	name string
	pid  int
}

func parsePids(s string) (out []proc) {
	for _, p := range strings.Split(s, ",") {
		if p == "" {
			continue
		}
		kv := strings.SplitN(p, "=", 2)
		pid, err := strconv.Atoi(kv[1])
		if err != nil {
			die("bad -pids %q", s)
		}
		out = append(out, proc{kv[0], pid})
	}
	return
}

// usage is what a process tree has used by now.
type usage struct {
	cpu           float64 // seconds, tree, including reaped children
	rss, hwm, pss int64   // kB; hwm is of the root process
	procs         int
}

func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	i := bytes.LastIndexByte(b, ')')
	return strings.Fields(string(b[i+2:]))
}

// treeUsage adds up the tree below root; full also reads the proportional set size, which is slow.
func treeUsage(root int, full bool) (u usage) {
	children := map[int][]int{}
	ents, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range ents {
		pid, _ := strconv.Atoi(filepath.Base(e))
		f := statFields(pid)
		if f == nil {
			continue
		}
		pp, _ := strconv.Atoi(f[1])
		children[pp] = append(children[pp], pid)
	}
	var walk func(int)
	walk = func(pid int) {
		f := statFields(pid)
		if f == nil {
			return
		}
		for _, k := range []int{11, 12, 13, 14} {
			v, _ := strconv.ParseFloat(f[k], 64)
			u.cpu += v / 100
		}
		u.procs++
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for _, l := range strings.Split(string(b), "\n") {
			w := strings.Fields(l)
			if len(w) < 2 {
				continue
			}
			v, _ := strconv.ParseInt(w[1], 10, 64)
			if w[0] == "VmRSS:" {
				u.rss += v
			}
			if w[0] == "VmHWM:" && pid == root {
				u.hwm = v
			}
		}
		b = nil
		if full {
			b, _ = os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		}
		for _, l := range strings.Split(string(b), "\n") {
			w := strings.Fields(l)
			if len(w) >= 2 && w[0] == "Pss:" {
				v, _ := strconv.ParseInt(w[1], 10, 64)
				u.pss += v
			}
		}
		for _, c := range children[pid] {
			walk(c)
		}
	}
	walk(root)
	return
}

// machineCPU is the seconds that all cores were busy, and were stolen, since boot.
func machineCPU() (busy, steal float64) {
	b, _ := os.ReadFile("/proc/stat")
	f := strings.Fields(strings.SplitN(string(b), "\n", 2)[0])
	v := make([]float64, len(f))
	for i := 1; i < len(f); i++ {
		v[i], _ = strconv.ParseFloat(f[i], 64)
	}
	return (v[1] + v[2] + v[3] + v[6] + v[7]) / 100, v[8] / 100
}

func selfCPU() float64 {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Sec+r.Stime.Sec) + float64(r.Utime.Usec+r.Stime.Usec)/1e6
}

// snap is one reading of all clocks.
type snap struct {
	t           time.Time
	u           map[string]usage
	busy, steal float64
	self        float64
}

var procs []proc

var noisy bool

// waitQuiet waits until the machine has been under -quiet cores for 1.5 s.
func waitQuiet() {
	if *fQuiet <= 0 {
		return
	}
	end := time.Now().Add(*fQuietMax)
	ok := 0
	for time.Now().Before(end) {
		b0, _ := machineCPU()
		t0 := time.Now()
		time.Sleep(500 * time.Millisecond)
		b1, _ := machineCPU()
		if (b1-b0)/time.Since(t0).Seconds() < *fQuiet {
			ok++
			if ok >= 3 {
				return
			}
		} else {
			ok = 0
		}
	}
	fmt.Fprintln(os.Stderr, "never quiet")
}

func takeSnap(full bool) snap {
	s := snap{u: map[string]usage{}}
	for _, p := range procs {
		s.u[p.name] = treeUsage(p.pid, full)
	}
	s.busy, s.steal = machineCPU()
	s.self = selfCPU()
	s.t = time.Now()
	return s
}

// usageOut puts what was used between two snaps into out, and marks the run when others disturbed it.
func usageOut(out res, a, b snap) {
	wall := b.t.Sub(a.t).Seconds()
	cpu := res{}
	mem := res{}
	known := 0.0
	for _, p := range procs {
		d := b.u[p.name].cpu - a.u[p.name].cpu
		known += d
		cpu[p.name] = r3(d)
		mem[p.name] = res{"rss_kb": b.u[p.name].rss, "pss_kb": b.u[p.name].pss, "hwm_kb": b.u[p.name].hwm, "procs": b.u[p.name].procs}
	}
	self := b.self - a.self
	cpu["loadgen"] = r3(self)
	cpu["others"] = r3(b.busy - a.busy - known - self)
	cpu["steal"] = r3(b.steal - a.steal)
	cpu["machine_busy_cores"] = r3((b.busy - a.busy) / wall)
	othersCores := (b.busy - a.busy - known - self) / wall
	cpu["others_cores"] = r3(othersCores)
	if *fOthers > 0 && othersCores > *fOthers && wall > 0.2 {
		noisy = true
	}
	out["noisy"] = noisy
	out["cpu_s"] = cpu
	out["mem"] = mem
}
