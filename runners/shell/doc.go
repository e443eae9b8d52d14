// Package shell runs the jobs of shell services: a program or a script of the
// operator's, with the job's input_data as JSON on its standard input.
//
// It promises that
//   - no shell takes part unless the command is one: every argument arrives
//     byte for byte, and the environment is exactly the registry's plus
//     SPECQL_*, PATH, HOME and TMPDIR;
//   - what runs is a program of allowed_commands, by the file that was checked
//     and not by its name;
//   - limits hold for the whole process tree and are the kernel's: memory,
//     processor, processes, files, time and network;
//   - when Run returns, every process and temporary directory of the attempt is
//     gone, also daemons that detached themselves, and its empty cgroup goes;
//     Close waits for that;
//   - a service that asks for more than the host can give is refused with the
//     reason. What really held for an attempt is recorded in Result.Security.
//
// An attempt is a child of a shim: this very program, started again under the
// name specql-shim, which enters the cgroup, prepares namespaces, Landlock and
// seccomp, starts the program, and stays as its init to reap and to kill. Where
// the agent is root on amd64 a child that is ready takes its place (fastStart). Both
// programs and each test binary therefore call ShimMain first in main.
//
// The package never reads the agent's environment for a job, never follows a
// row where the registry did not grant it, and never retries.
//
// # Scripts
//
// An operation without a command runs the script of its name in
// working_directory, with an allowed interpreter for its extension; the
// interpreter gets the script's path, so $0 and relative imports work. A
// program of allowed_commands that is itself a "#!" script is started by its
// descriptor like any other: its $0 is /proc/self/fd/5, and its working
// directory is where it finds its companions.
//
// # Isolation
//
// full is PID, mount and IPC namespaces with a private /proc, plus Landlock
// and seccomp; process is Landlock and seccomp alone, with the shim reaping
// the tree; none is limits and timeouts alone. Without security_policy.isolation
// a job gets all that the host has.
//
// file_access decides by Landlock what may be opened. none: the program, the
// allowed commands, the system's libraries and configuration that every
// program needs, the working directory for reading, the private temporary
// directory. read: everything for reading. read_write: writing in the working
// directory too.
package shell
