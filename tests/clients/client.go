// go-qemu of Digital Ocean, as it is: client SOCKET IMAGE. A line of JSON for each thing seen.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/digitalocean/go-qemu/qemu"
	"github.com/digitalocean/go-qemu/qmp"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func say(key string, value interface{}) {
	check(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{key: value}))
}

type seen struct {
	domain *qemu.Domain
	events chan qmp.Event
}

func (s *seen) run(command string, args interface{}) []byte {
	out, err := s.domain.Run(qmp.Command{Execute: command, Args: args})
	check(err)
	return out
}

// Until the event has come whose data has that value.
func (s *seen) wait(name, key, value string) {
	for e := range s.events {
		say("event", e.Event)
		if e.Event == name && (key == "" || e.Data[key] == value) {
			return
		}
	}
}

func (s *seen) job(command string, args map[string]interface{}) {
	args["job-id"] = "go"
	s.run(command, args)
	s.wait("JOB_STATUS_CHANGE", "status", "concluded")
	var jobs struct{ Return []map[string]interface{} }
	check(json.Unmarshal(s.run("query-jobs", nil), &jobs))
	say("job", jobs.Return)
	s.run("job-dismiss", map[string]interface{}{"id": "go"})
	s.wait("JOB_STATUS_CHANGE", "status", "null")
}

func main() {
	mon, err := qmp.NewSocketMonitor("unix", os.Args[1], 5*time.Second)
	check(err)
	check(mon.Connect())
	domain, err := qemu.NewDomain(mon, "vm1")
	check(err)
	events, _, err := domain.Events()
	check(err)
	// The library waits with answers until its events are taken.
	s := &seen{domain, make(chan qmp.Event, 1000)}
	go func() {
		for e := range events {
			s.events <- e
		}
	}()

	version, err := domain.Version()
	check(err)
	say("version", version)
	commands, err := domain.Commands()
	check(err)
	say("commands", len(commands))
	disk, err := domain.BlockDevice("vda")
	check(err)
	say("disk", disk.Inserted.File)
	stats, err := domain.BlockStats()
	check(err)
	say("stats", stats[0].Device)
	s.run("stop", nil)
	s.wait("STOP", "", "")
	status, err := domain.Status()
	check(err)
	say("status", status.String())
	s.run("cont", nil)
	s.wait("RESUME", "", "")
	devices := []string{"vda"}
	s.job("snapshot-save", map[string]interface{}{"tag": "go", "vmstate": "vda", "devices": devices})
	s.job("snapshot-load", map[string]interface{}{"tag": "go", "vmstate": "vda", "devices": devices})
	s.job("snapshot-delete", map[string]interface{}{"tag": "go", "devices": devices})
	s.run("blockdev-add", map[string]interface{}{"driver": "qcow2", "node-name": "second",
		"file": map[string]string{"driver": "file", "filename": os.Args[2]}})
	s.run("device_add", map[string]string{"driver": "virtio-blk-pci", "id": "disk2", "drive": "second"})
	added, err := domain.BlockDevice("disk2")
	check(err)
	say("added", added.Inserted.File)
	s.run("device_del", map[string]string{"id": "disk2"})
	_, err = domain.Run(qmp.Command{Execute: "job-dismiss", Args: map[string]string{"id": "none"}})
	say("error", err.Error())
	check(domain.SystemReset())
	s.wait("RESET", "", "")
	s.run("quit", nil)
	s.wait("SHUTDOWN", "reason", "host-qmp-quit")
}
