#include "textflag.h"

// func spawn(args unsafe.Pointer, size uintptr, script unsafe.Pointer, all, old unsafe.Pointer) int64
//
// Makes a child that shares the agent's memory (clone3 with CLONE_VM) and so
// must not touch any of it: it has no stack that it would use, no runtime and no
// signals. It walks the script, an array of system calls, which ends in an
// execve. See type op for the offsets.
TEXT ·spawn(SB),NOSPLIT|NOFRAME,$0-48
	MOVQ	$14, AX			// rt_sigprocmask(SIG_SETMASK, all, old, 8)
	MOVQ	$2, DI
	MOVQ	all+24(FP), SI
	MOVQ	old+32(FP), DX
	MOVQ	$8, R10
	SYSCALL
	MOVQ	script+16(FP), BX
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	$435, AX		// clone3
	SYSCALL
	TESTQ	AX, AX
	JEQ	next
	MOVQ	AX, R13
	MOVQ	$14, AX
	MOVQ	$2, DI
	MOVQ	old+32(FP), SI
	MOVQ	$0, DX
	MOVQ	$8, R10
	SYSCALL
	MOVQ	R13, ret+40(FP)
	RET
next:
	MOVQ	0(BX), AX
	MOVQ	8(BX), DI
	MOVQ	16(BX), SI
	MOVQ	24(BX), DX
	MOVQ	32(BX), R10
	MOVQ	40(BX), R8
	MOVQ	48(BX), R9
	SYSCALL
	MOVQ	AX, 64(BX)
	CMPQ	56(BX), $1		// what it returns is of no matter
	JEQ	step
	CMPQ	AX, $0
	JLT	fail
	JNE	descriptor
	CMPQ	56(BX), $3		// nothing is not enough
	JEQ	fail
descriptor:
	CMPQ	56(BX), $2		// a descriptor, which a later call needs
	JNE	step
	MOVQ	72(BX), R12
	MOVL	AX, 0(R12)
step:
	ADDQ	$80, BX
	JMP	next
fail:
	MOVQ	$231, AX		// exit_group(125)
	MOVQ	$125, DI
	SYSCALL
	INT	$3

// initCode is a whole program, copied into a file of its own: the init of an
// attempt. It touches nothing but its registers and its stack, so it runs
// wherever it is loaded. It is started with argv[0] = flag and number, then the
// program's argv; the flag is h where descriptor 5 must stay open for a "#!"
// file's interpreter, and the number (as a digit) says how many cgroup files
// are open from 6 on. It
//   - enters the cgroups, by writing "0" to each file;
//   - starts the program of descriptor 5 in a session of its own;
//   - sends SIGTERM to all when a byte comes by descriptor 3, and ends when
//     that is closed, with which the kernel kills whatever is left;
//   - reaps, and when the program has ended kills and reaps what it left, says
//     so, and ends.
// What it says, by descriptor 4, are two numbers of 32 bits: 1 and an errno
// where the program could not be started, 2 and the wait status where it ended
// and nothing of its tree is left, 3 and an errno where a cgroup could not be
// entered.
//
// R12: the stack's beginning; below it, to -512, is scratch. R13: argv.
// R14: envp, later the program's pid. R15: argv[0], later the wait status. BX:
// the signalfd.
TEXT ·initCode(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ	SP, R12
	LEAQ	8(R12), R13
	MOVQ	0(R12), AX
	LEAQ	16(R12)(AX*8), R14
	MOVQ	0(R13), R15

	MOVQ	$157, AX		// prctl(PR_SET_DUMPABLE, 0): the job must not look in
	MOVQ	$4, DI
	XORQ	SI, SI
	XORQ	DX, DX
	XORQ	R10, R10
	XORQ	R8, R8
	SYSCALL

	MOVBLZX	1(R15), BX		// enter the cgroups
	SUBL	$42, BX			// '0' less 6: the first descriptor behind them
	MOVQ	$6, R9
	MOVB	$48, -512(R12)
join:
	CMPQ	R9, BX
	JGE	joined
	MOVQ	$1, AX
	MOVQ	R9, DI
	LEAQ	-512(R12), SI
	MOVQ	$1, DX
	SYSCALL
	CMPQ	AX, $0
	JLT	notjoined
	MOVQ	$3, AX
	MOVQ	R9, DI
	SYSCALL
	INCQ	R9
	JMP	join
notjoined:
	MOVQ	$3, R8
	NEGQ	AX
	JMP	say
joined:
	MOVQ	$289, AX		// signalfd4(-1, {SIGCHLD}, 8, SFD_CLOEXEC); all signals are blocked
	MOVQ	$-1, DI
	MOVQ	$0x10000, DX
	MOVQ	DX, -512(R12)
	LEAQ	-512(R12), SI
	MOVQ	$8, DX
	MOVQ	$0x80000, R10
	SYSCALL
	CMPQ	AX, $0
	JLT	notstarted
	MOVQ	AX, BX

	MOVQ	$57, AX			// fork
	SYSCALL
	CMPQ	AX, $0
	JLT	notstarted
	JNE	parent

	MOVQ	$112, AX		// setsid
	SYSCALL
	MOVQ	$157, AX		// prctl(PR_SET_PDEATHSIG, SIGKILL)
	MOVQ	$1, DI
	MOVQ	$9, SI
	XORQ	DX, DX
	XORQ	R10, R10
	XORQ	R8, R8
	SYSCALL
	MOVQ	$14, AX			// rt_sigprocmask(SIG_SETMASK, {}, 0, 8)
	MOVQ	$2, DI
	MOVQ	$0, -512(R12)
	LEAQ	-512(R12), SI
	XORQ	DX, DX
	MOVQ	$8, R10
	SYSCALL
	MOVQ	$3, AX			// close(3)
	MOVQ	$3, DI
	SYSCALL
	MOVQ	$72, AX			// fcntl(4, F_SETFD, FD_CLOEXEC)
	MOVQ	$4, DI
	MOVQ	$2, SI
	MOVQ	$1, DX
	SYSCALL
	CMPB	0(R15), $104		// 'h'
	JEQ	start
	MOVQ	$72, AX
	MOVQ	$5, DI
	MOVQ	$2, SI
	MOVQ	$1, DX
	SYSCALL
start:
	MOVQ	$59, AX			// execve("/proc/self/fd/5", argv + 1, envp)
	MOVQ	$0x65732f636f72702f, DX	// "/proc/se"
	MOVQ	DX, -512(R12)
	MOVQ	$0x00352f64662f666c, DX	// "lf/fd/5"
	MOVQ	DX, -504(R12)
	LEAQ	-512(R12), DI
	LEAQ	8(R13), SI
	MOVQ	R14, DX
	SYSCALL
notstarted:
	MOVQ	$1, R8
	NEGQ	AX
	JMP	say

parent:
	MOVQ	AX, R14
	MOVQ	$3, AX			// only the tree may hold the job's pipes
	MOVQ	$0, DI
	SYSCALL
	MOVQ	$3, AX
	MOVQ	$1, DI
	SYSCALL
	MOVQ	$3, AX
	MOVQ	$2, DI
	SYSCALL
	MOVQ	$3, AX
	MOVQ	$5, DI
	SYSCALL
wait:
	MOVL	BX, -512(R12)		// poll({signalfd, POLLIN}, {3, POLLIN})
	MOVL	$1, -508(R12)
	MOVL	$3, -504(R12)
	MOVL	$1, -500(R12)
	MOVQ	$7, AX
	LEAQ	-512(R12), DI
	MOVQ	$2, SI
	MOVQ	$-1, DX
	SYSCALL
	CMPQ	AX, $0
	JLT	wait
	CMPW	-498(R12), $0
	JEQ	signalled
	MOVQ	$0, AX			// read(3, …, 1)
	MOVQ	$3, DI
	LEAQ	-448(R12), SI
	MOVQ	$1, DX
	SYSCALL
	CMPQ	AX, $1
	JNE	end
	MOVQ	$62, AX			// kill(-1, SIGTERM)
	MOVQ	$-1, DI
	MOVQ	$15, SI
	SYSCALL
signalled:
	CMPW	-506(R12), $0
	JEQ	wait
	MOVQ	$0, AX			// read(signalfd, …, 128)
	MOVQ	BX, DI
	LEAQ	-448(R12), SI
	MOVQ	$128, DX
	SYSCALL
reap:
	MOVQ	$61, AX			// wait4(-1, &status, WNOHANG, 0)
	MOVQ	$-1, DI
	LEAQ	-256(R12), SI
	MOVQ	$1, DX
	XORQ	R10, R10
	SYSCALL
	CMPQ	AX, $0
	JLE	wait
	CMPQ	AX, R14
	JNE	reap
	MOVL	-256(R12), R15
empty:
	MOVQ	$62, AX			// kill(-1, SIGKILL)
	MOVQ	$-1, DI
	MOVQ	$9, SI
	SYSCALL
	MOVQ	$61, AX			// wait4(-1, 0, 0, 0), as long as there is anybody
	MOVQ	$-1, DI
	XORQ	SI, SI
	XORQ	DX, DX
	XORQ	R10, R10
	SYSCALL
	CMPQ	AX, $0
	JGT	empty
	MOVQ	$2, R8
	MOVL	R15, AX
say:
	MOVL	R8, -512(R12)
	MOVL	AX, -508(R12)
	MOVQ	$1, AX
	MOVQ	$4, DI
	LEAQ	-512(R12), SI
	MOVQ	$8, DX
	SYSCALL
end:
	MOVQ	$231, AX		// exit_group(0)
	XORQ	DI, DI
	SYSCALL
	INT	$3
	// initEnd, where the copy ends
	QUAD	$0x6e69206c71636570
	QUAD	$0x646e65207469

// func initAddress() unsafe.Pointer
TEXT ·initAddress(SB),NOSPLIT,$0-8
	LEAQ	·initCode(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
