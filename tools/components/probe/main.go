// Probe is the one program of the test cluster's images: it holds a pod's sandbox, serves, asks, and fails on request.
//
//	probe pause                  wait for SIGTERM and reap: a sandbox, or the first process of a node
//	probe forward LISTEN TARGET  pass TCP connections on
//	probe serve LISTEN           HTTP: / the host's name, /ask?url=U, /connect?address=A, /allocate?mib=N, /exit?code=N
//	probe get URL                print what a URL answers; status 1 when it does not answer in 3 s
//	probe connect ADDRESS        open a TCP connection; status 1 when that takes longer than 3 s
//	probe allocate MIB           take so much memory and keep it
//	probe exit CODE              end with this status
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const patience = 3 * time.Second

var held [][]byte

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 1 && arguments[0] == "pause" {
		return pause()
	}
	if len(arguments) == 3 && arguments[0] == "forward" {
		return forward(arguments[1], arguments[2])
	}
	if len(arguments) != 2 {
		return errors.New("expected pause, forward LISTEN TARGET, serve LISTEN, get URL, connect ADDRESS, allocate MIB or exit CODE")
	}
	switch argument := arguments[1]; arguments[0] {
	case "serve":
		return serve(argument)
	case "get":
		answer, err := get(argument)
		fmt.Print(answer)
		return err
	case "connect":
		return connect(argument)
	case "allocate":
		if err := allocate(argument); err != nil {
			return err
		}
		return pause()
	case "exit":
		return exit(argument)
	default:
		return fmt.Errorf("no command %q", arguments[0])
	}
}

// pause also reaps what is handed to the first process of a PID namespace, or the process table would fill.
func pause() error {
	ends, children := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ends:
			return nil
		case <-children:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
					break
				}
			}
		}
	}
}

func forward(listen, target string) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", target)
			if err != nil {
				return // the client sees the connection end, as it would without us
			}
			defer server.Close()
			go func() {
				_, _ = io.Copy(server, client)
				_ = server.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(client, server)
		}()
	}
}

func serve(listen string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	go func() {
		_ = pause()
		fmt.Println("probe: told to end")
		os.Exit(0)
	}()
	handle := func(path string, act func(*http.Request) (string, error)) {
		http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			answer, err := act(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			fmt.Fprint(w, answer)
		})
	}
	handle("/", func(*http.Request) (string, error) { return name, nil })
	handle("/ask", func(r *http.Request) (string, error) { return get(r.FormValue("url")) })
	handle("/connect", func(r *http.Request) (string, error) { return "connected", connect(r.FormValue("address")) })
	handle("/allocate", func(r *http.Request) (string, error) { return "allocated", allocate(r.FormValue("mib")) })
	handle("/exit", func(r *http.Request) (string, error) { return "", exit(r.FormValue("code")) })
	fmt.Println("probe: serving as", name)
	return http.ListenAndServe(listen, nil)
}

func get(url string) (string, error) {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

func connect(address string) error {
	connection, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	return connection.Close()
}

func allocate(mib string) error {
	count, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	for range count {
		block := make([]byte, 1<<20)
		for at := 0; at < len(block); at += 4096 {
			block[at] = 1 // memory is taken when it is written
		}
		held = append(held, block)
	}
	return nil
}

func exit(code string) error {
	number, err := strconv.Atoi(code)
	if err != nil {
		return err
	}
	os.Exit(number)
	return nil
}
