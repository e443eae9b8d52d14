// Package docker runs the jobs of docker services: one container a job, with
// the job's input_data as JSON on its standard input and its standard output
// as the answer.
//
// It promises that
//   - image, volumes, network and user are the registry's: a row narrows them
//     or is refused, and privileges, devices, capabilities and the host's
//     namespaces cannot be expressed at all;
//   - memory, processors, processes, processor time, temporary files, output
//     and time are limited, and a broken limit is named;
//   - processor time and peak memory are read from the container's cgroup after
//     its end where the engine is local, and sampled, and marked so, where not;
//   - no container serves two jobs, and none is left behind: each says by its
//     labels whose it is, and what a dead agent left is removed by any other
//     agent of the same engine;
//   - while the engine is away, jobs wait (runners.BusyError); they don't fail.
//
// # A container's life
//
// created → attached → started → input written → ended → read → removed. A
// service that is asked for again and again has containers started ahead: in
// them waits package waiter, this very program, which becomes the service's
// program as soon as a job comes. So nothing of the service runs before its
// job does, and each job has its own arguments and variables.
//
// The engine is found as Docker's own tools find it: DOCKER_HOST (unix, tcp
// with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, ssh) or the local socket.
package docker
