// bbsload drives any server that speaks the Diego BBS task API, through the real Go client
// (code.cloudfoundry.org/bbs). Every run is bounded by -n and/or -dur and only loopback URLs are accepted.
package main

import (
	"flag"
	"fmt"
	"math/rand"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"code.cloudfoundry.org/bbs"
)

var (
	fURL      = flag.String("url", "https://127.0.0.1:18889", "BBS base URL (http or https, loopback only)")
	fCA       = flag.String("ca", "certs/ca.crt", "CA certificate (https)")
	fCert     = flag.String("cert", "certs/client.crt", "client certificate (https)")
	fKey      = flag.String("key", "certs/client.key", "client key (https)")
	fInsecure = flag.Bool("insecure", false, "https without server verification")
	fTimeout  = flag.Duration("timeout", 120*time.Second, "request timeout")
	fRetries  = flag.Int("retries", 1, "client attempts for one request (the library's own default is 3)")
	fMode     = flag.String("mode", "ping", "ping|desire|fill|advance|lifecycle|get|list|events|callback|cancel|purge|wait|watch")
	fN        = flag.Int("n", 1000, "operations (tasks, lives, listings)")
	fC        = flag.Int("c", 1, "concurrent workers")
	fDur      = flag.Duration("dur", 0, "stop after this long even if -n is not reached (0: only -n)")
	fPrefix   = flag.String("prefix", "", "task guid prefix (default: unique for this run)")
	fDomains  = flag.String("domains", "bench", "comma-separated domains, used round-robin")
	fDomain   = flag.String("filter-domain", "", "list: TasksByDomain with this domain")
	fCellF    = flag.String("filter-cell", "", "list: TasksByCellID with this cell")
	fRaw      = flag.Bool("raw", false, "list: plain HTTP POST, body thrown away (no decoding in the client)")
	fTasks    = flag.Int("tasks", 10000, "get: number of tasks <prefix>-0000000.. present")
	fTo       = flag.String("to", "running", "advance: running|completed")
	fFailed   = flag.Bool("failed", false, "complete with failed=true")
	fCell     = flag.String("cell", "cell-1", "cell id for StartTask/CompleteTask")
	fEnv      = flag.Int("env", 5, "environment variables in the definition")
	fUnique   = flag.Bool("unique", false, "give every task a definition of its own")
	fPad      = flag.Int("pad", 0, "extra bytes of annotation in the definition")
	fSubs     = flag.Int("subs", 1, "events: subscribers")
	fRate     = flag.Float64("rate", 0, "open loop: operations per second over all workers (0: closed loop)")
	fCBAddr   = flag.String("cb-addr", "127.0.0.1:19700", "callback: listen address")
	fGrace    = flag.Duration("grace", 15*time.Second, "events/callback: give up after this long without progress")
	fPids     = flag.String("pids", "", "name=pid,... process trees whose CPU and RSS are reported")
	fSince    = flag.Int64("since", 0, "wait: unix nanoseconds at which the server was started")
	fEvery    = flag.Duration("every", 200*time.Millisecond, "watch: sampling interval")
	fLabel    = flag.String("label", "", "label copied to the output")
	fOut      = flag.String("out", "", "append the JSON result to this file")
	fQuiet    = flag.Float64("quiet", 0, "before the run, wait until the rest of the machine uses fewer cores than this (0: do not wait)")
	fQuietMax = flag.Duration("quiet-wait", 240*time.Second, "longest wait for -quiet")
	fOthers   = flag.Float64("max-others", 0, "mark the result noisy and exit 3 if other processes used more cores than this during the run (0: off)")
	fShared   = flag.Bool("shared", true, "https: one client object for all workers; http always uses one per worker (the library keeps only 2 idle plain-http connections)")
)

// die ends the program for a wrong use of it.
func die(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...); os.Exit(2) }

func main() {
	flag.Parse()
	u, err := url.Parse(*fURL)
	if err != nil {
		die("url: %v", err)
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		die("only loopback addresses are allowed, not %q", u.Hostname())
	}
	isTLS = u.Scheme == "https"
	prefix = *fPrefix
	if prefix == "" {
		prefix = fmt.Sprintf("t%x", time.Now().UnixNano()/1e6)
	}
	domains = strings.Split(*fDomains, ",")
	procs = parsePids(*fPids)
	if *fN > 1000000 {
		die("-n too large")
	}

	if *fMode != "wait" && *fMode != "watch" {
		waitQuiet()
	}
	switch *fMode {
	case "ping":
		simple("ping", func(cl bbs.InternalClient, i int) error {
			if !cl.Ping(logger, "") {
				return fmt.Errorf("ping false")
			}
			return nil
		})
	case "desire", "fill":
		def := definition("")
		simple("desire", func(cl bbs.InternalClient, i int) error {
			return cl.DesireTask(logger, "", guid(i), domain(i), of(def, i))
		})
	case "cancel":
		simple("cancel", func(cl bbs.InternalClient, i int) error { return cl.CancelTask(logger, "", guid(i)) })
	case "advance":
		simple("advance", func(cl bbs.InternalClient, i int) error {
			if *fTo == "running" {
				ok, err := cl.StartTask(logger, "", guid(i), *fCell)
				if err == nil && !ok {
					err = fmt.Errorf("should_start false")
				}
				return err
			}
			return cl.CompleteTask(logger, "", guid(i), *fCell, *fFailed, "", "hello world")
		})
	case "get":
		simple("get", func(cl bbs.InternalClient, i int) error {
			g := guid(rand.Intn(*fTasks))
			t, err := cl.TaskByGuid(logger, "", g)
			if err == nil && (t.TaskGuid != g || t.TaskDefinition == nil || t.TaskDefinition.ResultFile == "") {
				err = fmt.Errorf("wrong task")
			}
			return err
		})
	case "lifecycle":
		lifecycle()
	case "list":
		list()
	case "events":
		eventsMode()
	case "callback":
		callback()
	case "purge":
		purge()
	case "wait":
		wait()
	case "watch":
		watch()
	default:
		die("unknown mode")
	}
	if errCount.Load() > 0 {
		os.Exit(1)
	}
	if noisy {
		os.Exit(3)
	}
}
