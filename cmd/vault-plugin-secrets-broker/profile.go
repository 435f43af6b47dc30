//go:build profile && unix

package main

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// A plugin that is built with -tags profile writes profiles of itself, for `make profile`. It
// listens nowhere: a SIGUSR1 begins a profile of what takes time, and the next one ends that
// and lays it beside the program, as the file .cpu, and what was allocated until then as .allocs.
func init() {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for range asked {
			if err := profileUntil(asked, program); err != nil {
				panic(err)
			}
		}
	}()
}

func profileUntil(end <-chan os.Signal, program string) error {
	err := whole(program+".cpu", func(f *os.File) error {
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		<-end
		pprof.StopCPUProfile()
		return nil
	})
	if err != nil {
		return err
	}
	return whole(program+".allocs", func(f *os.File) error { return pprof.Lookup("allocs").WriteTo(f, 0) })
}

// whole makes a file that is not there before it is whole.
func whole(name string, write func(*os.File) error) error {
	f, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
