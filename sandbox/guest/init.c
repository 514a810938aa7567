/* PID 1 of the sandbox: "the machine".
 *
 * It starts the commands the host asks for, passes the questions of next_question on to the host,
 * and ends on SIGTERM, as `kill -s TERM 1` asks. When it ends, the kernel ends every process of
 * the sandbox: the machine is down.
 *
 * It shows as root's, as on any machine, without a capability; its saved user id is the agent's, so
 * that the agent may signal it and nothing else. (With one user id it is the agent's altogether.) It
 * is not dumpable, so that nobody can trace it or read its memory or descriptors. What it tells the
 * host is what it saw itself; the questions, the count and the verdict live with the host.
 *
 * Control socket (SOCK_SEQPACKET, descriptor 3), one message a packet, first byte the kind:
 *   host -> init   B struct boot            first message: limits and identity
 *                  X command                with two descriptors: stdout, stderr
 *                  K                        kill everything but PID 1
 *                  A P text | A S           answer to the waiting next_question: print, or run
 *                                           the shutdown script
 *   init -> host   U files                  up
 *                  E int32 status, files    the command ended (wait status)
 *                  F int32 errno            the command could not be started
 *                  Q N | Q B | Q C int32 status   next_question asks; its shutdown script has
 *                                           begun; has returned
 *                  G                        next_question went away in the middle
 *                  L name                   a limit of the sandbox was met, everything was killed;
 *                                           "full": and its files are too many all the same, so
 *                                           that the sandbox ends
 *                  D int32 sender, files    SIGTERM from process `sender` (0: from outside)
 * `files` is the state of the two files of the task, see put_file().
 *
 * One question is open at a time: while the host's answer is awaited, nothing is read of the client
 * or of the others that queue, so an answer can never reach the wrong one.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <grp.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "machine.h"

#define CONTROL 3
#define WATCH_MS 100
#define SILENT_CLIENT_MS 8000
#define CLIENTS_PER_S 200 /* a flood of questions costs this sandbox, not the host */
#define STACK_BYTES (8 << 20)
#define LOCKED_BYTES (8 << 20)

static struct boot limits;
static int two_users;
static int exec_failed = -1; /* a command that could not be started says its errno here */
static char packet[160 * 1024]; /* a command is at most 128 KiB: the kernel's MAX_ARG_STRLEN */
static pid_t command = -1;
static int signals = -1, server = -1;
static int client = -1;
static enum { CONNECTED, ASKED, SHUTTING_DOWN, SCRIPT_RUNS } client_state;
static int64_t client_since;
static int64_t clients_since; /* the second that `clients` counts */
static int clients;
static int files_due; /* to be counted: the last process has ended */

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The host is the only reader; when it is gone, so is the machine. */
static void tell(const void *data, size_t size)
{
	while (send(CONTROL, data, size, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			_exit(1);
}

/* The state of both files goes with the message: at most 2 * (CONTENT_MAX + a line). */
static void tell_with_files(char kind, const int32_t *number)
{
	static char report[4 * CONTENT_MAX];
	char *at = report;
	*at++ = kind;
	if (number) {
		memcpy(at, number, sizeof *number);
		at += sizeof *number;
	}
	at = put_file(at, WORK "/shutdown.sh");
	at = put_file(at, WORK "/next_question");
	tell(report, at - report);
}

/* At most what the run itself may have. */
static void limits_of(int resource, uint64_t soft, uint64_t hard)
{
	struct rlimit r;
	if (getrlimit(resource, &r) < 0)
		_exit(2);
	if (hard < r.rlim_max)
		r.rlim_max = hard;
	r.rlim_cur = soft < r.rlim_max ? soft : r.rlim_max;
	if (setrlimit(resource, &r) < 0)
		_exit(2);
}

static void limit(int resource, uint64_t value)
{
	if (value)
		limits_of(resource, value, value);
}

/* The user that PID 1 acts as: the agent, where it signals or reads; root again after that. Files
 * it always sees as the agent does. A change of user makes a process dumpable again on some
 * machines, and undoes that it ends with its parent. */
static void act_as(uid_t uid)
{
	if (!two_users)
		return;
	if (setresuid(-1, uid, -1))
		_exit(12);
	setfsuid(limits.uid);
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		_exit(6);
}

/* With two users mapped we boot as root, and lay out who owns what; with one (an ordinary caller
 * without subordinate ids) we are the agent's user already. */
static void become_user(void)
{
	struct { uint32_t version; int pid; } head = { 0x20080522, 0 };
	uint32_t none[6] = { 0 };
	two_users = getuid() == 0;
	if (two_users) {
		uid_t u = limits.uid;
		if (chown(HOME, u, u) || chown(HOME "/.profile", u, u) || chown(HOME "/.bashrc", u, u)
		    || chown(WORK, u, u) || chown(WORK "/shutdown.sh", u, u))
			_exit(3);
		for (int cap = 0; cap < 64; cap++)
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
		if (setgroups(0, 0) || setresgid(u, u, u) || setresuid(0, 0, u))
			_exit(4);
	}
	if (syscall(SYS_capset, &head, none) < 0)
		_exit(5);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
	    || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		_exit(6);
	act_as(0);
}

static void tell_failed(int32_t number)
{
	char report[5] = { 'F' };
	memcpy(report + 1, &number, 4);
	tell(report, 5);
}

static void start_command(char *text, int out, int err)
{
	sigset_t none;
	int report[2];
	if (pipe2(report, O_CLOEXEC | O_NONBLOCK))
		_exit(13);
	pid_t pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDONLY);
		setsid();
		dup2(null, 0);
		dup2(out, 1);
		dup2(err, 2);
		/* At its new number it is still closed by exec. */
		dup3(report[1], 3, O_CLOEXEC);
		if (syscall(SYS_close_range, 4, ~0u, 0) < 0)
			_exit(126);
		if (two_users && setresuid(limits.uid, limits.uid, limits.uid))
			_exit(126);
		/* Only now that nothing of PID 1's is left in this process. */
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
		int oom = open("/proc/self/oom_score_adj", O_WRONLY);
		if (oom >= 0) {
			if (write(oom, "800", 3) < 0) {}
			close(oom);
		}
		limit(RLIMIT_AS, limits.address_bytes);
		/* By a signal of its own, so that the host can tell our limit from a kill. */
		if (limits.cpu_s)
			limits_of(RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1);
		/* Of the commands alone: the kernel drops who sent a signal when the *receiver* has
		 * reached its limit, and PID 1 must know who sent TERM. */
		limit(RLIMIT_SIGPENDING, limits.open_files);
		limits_of(RLIMIT_STACK, STACK_BYTES, RLIM_INFINITY);
		limit(RLIMIT_MEMLOCK, LOCKED_BYTES);
		limits_of(RLIMIT_RTPRIO, 0, 0);
		limits_of(RLIMIT_NICE, 0, 0);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, 0);
		if (chdir(WORK) && chdir(HOME) && chdir("/")) {}
		char *argv[] = { "bash", "--login", "-c", text, 0 };
		execve("/bin/bash", argv, environ);
		int32_t failed = errno;
		if (write(3, &failed, sizeof failed) < 0) {}
		_exit(127);
	}
	int32_t failed = errno;
	close(out);
	close(err);
	close(report[1]);
	if (exec_failed >= 0)
		close(exec_failed);
	exec_failed = report[0];
	if (pid < 0)
		tell_failed(failed);
	else
		command = pid;
}

static void take_signals(void);

static void drop_client(void)
{
	int told = client_state != CONNECTED;
	close(client);
	client = -1;
	if (told)
		tell("G", 1);
}

/* Before the host hears that a command has ended, it hears that next_question went with it. One
 * whose answer is on its way is dropped when that comes. */
static void kill_all(void)
{
	int fd;
	act_as(limits.uid);
	kill(-1, SIGKILL);
	act_as(0);
	if (client >= 0 && client_state != ASKED)
		drop_client();
	/* Questions of the dead, still queued. */
	while ((fd = accept4(server, 0, 0, SOCK_CLOEXEC)) >= 0)
		close(fd);
}

/* What a command leaves running may not slow the commands of others. */
static void lower_priority(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	act_as(limits.uid);
	while (proc && (entry = readdir(proc))) {
		int pid = atoi(entry->d_name);
		if (pid > 1)
			setpriority(PRIO_PROCESS, pid, 19);
	}
	act_as(0);
	if (proc)
		closedir(proc);
}

/* A message of the host's. Returns 0 when the host is gone. */
static int from_host(void)
{
	char ancillary[CMSG_SPACE(2 * sizeof(int))];
	struct iovec part = { packet, sizeof packet - 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1,
		.msg_control = ancillary, .msg_controllen = sizeof ancillary };
	ssize_t n = recvmsg(CONTROL, &m, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return n < 0 && errno == EINTR;
	packet[n] = 0;
	if (packet[0] == 'X') {
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		int fds[2];
		if (!c || c->cmsg_len != CMSG_LEN(sizeof fds))
			_exit(7);
		memcpy(fds, CMSG_DATA(c), sizeof fds);
		start_command(packet + 1, fds[0], fds[1]);
	} else if (packet[0] == 'K') {
		kill_all();
	} else if (packet[0] == 'A' && client >= 0 && client_state == ASKED) {
		if (send(client, packet + 1, n - 1, MSG_NOSIGNAL | MSG_DONTWAIT) != n - 1)
			drop_client();
		else if (packet[1] == 'S')
			client_state = SHUTTING_DOWN;
		else {
			close(client);
			client = -1;
		}
	}
	return 1;
}

static void from_client(void)
{
	char report[6] = { 'Q' };
	ssize_t n = recv(client, report + 1, client_state == CONNECTED ? 1 : 5, MSG_DONTWAIT);
	/* After the read: a TERM sent before the client wrote is pending by now. */
	take_signals();
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (client_state == CONNECTED && n == 1 && report[1] == ASK_NEXT)
		tell(report, 2);
	else if (client_state == SHUTTING_DOWN && n == 5 && report[1] == SAY_BEGUN) {
		tell(report, 2);
		client_state = SCRIPT_RUNS;
		return;
	} else if (client_state >= SHUTTING_DOWN && n == 5 && report[1] == ASK_ON)
		tell(report, 6);
	else {
		drop_client();
		return;
	}
	client_state = ASKED;
}

/* All that next_question has said by now, and that it is gone. */
static void hear_client(void)
{
	struct pollfd on = { client, POLLIN | POLLRDHUP, 0 };
	while (client >= 0 && client_state != ASKED && poll(&on, 1, 0) > 0)
		from_client();
}

/* Files outlive the processes that made them. What is over twice its limit when these have ended
 * would only grow from command to command: the sandbox ends. */
static void end_if_full(void)
{
	files_due = 0;
	if (limits.files && files_held() > 2 * limits.files) {
		tell("Lfull", 5);
		_exit(0);
	}
}

/* Returns 1 while any process but PID 1 is left. */
static int reap(void)
{
	int32_t ended = -1;
	int status, left, any = 0;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		any = 1;
		if (pid == command) {
			command = -1;
			ended = status;
		}
	}
	left = pid == 0;
	if (any && !left)
		files_due = 1;
	/* A TERM that was sent before these ended comes first, and then what calls of next_question came
	 * to: where we got no time, both stand at once. */
	if (ended >= 0 || (any && !left)) {
		take_signals();
		hear_client();
	}
	/* Not between a question and what became of it. */
	if (files_due && !left && !(client >= 0 && client_state == ASKED))
		end_if_full();
	if (ended >= 0) {
		if (left)
			lower_priority();
		int32_t failed;
		if (read(exec_failed, &failed, sizeof failed) == sizeof failed)
			tell_failed(failed);
		else
			tell_with_files('E', &ended);
	}
	return left;
}

static void watch(void)
{
	const char *met = 0;
	if (limits.memory_bytes && holds_more_memory(limits.memory_bytes))
		met = "Lmemory";
	else if (limits.files && files_held() > limits.files)
		met = "Lfiles";
	if (met) {
		kill_all();
		tell(met, strlen(met));
	}
}

/* Looks at the signals that have come, and ends the machine on TERM. */
static void take_signals(void)
{
	struct signalfd_siginfo info;
	while (read(signals, &info, sizeof info) == sizeof info)
		if (info.ssi_signo == SIGTERM) {
			/* The kernel names no sender when kill() was called outside; a process of the
			 * sandbox can name any (sigqueue), but cannot claim to have called kill(). */
			int outside = info.ssi_pid == 0
				      && (info.ssi_code == SI_USER || info.ssi_code == SI_TKILL);
			int32_t sender = outside ? 0 : info.ssi_pid ? (int32_t)info.ssi_pid : -1;
			tell_with_files('D', &sender);
			_exit(0);
		}
}

int main(void)
{
	sigset_t wanted;
	struct sockaddr_un name;
	int64_t watched = 0;
	char kind[1 + sizeof limits];
	static const unsigned long no_action[4]; /* the kernel's struct sigaction: SIG_DFL */

	if (recv(CONTROL, kind, sizeof kind, 0) != sizeof kind || kind[0] != 'B')
		return 8;
	memcpy(&limits, kind + 1, sizeof limits);
	fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
	/* Nothing that bwrap was given, or that the run inherited, is left open. */
	if (syscall(SYS_close_range, CONTROL + 1, ~0u, 0) < 0)
		return 11;
	become_user();
	umask(022);
	/* What the run ignores (Python: SIGPIPE), every program here would ignore. */
	for (int n = 1; n <= 64; n++)
		syscall(SYS_rt_sigaction, n, no_action, 0, 8);
	limit(RLIMIT_NPROC, limits.processes);
	limit(RLIMIT_NOFILE, limits.open_files);
	limit(RLIMIT_FSIZE, limits.file_bytes);

	/* Blocked and read from a descriptor: a signal that PID 1 does not handle is dropped by the
	 * kernel when a process of the sandbox sends it, a blocked one is kept. */
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGCHLD);
	sigprocmask(SIG_SETMASK, &wanted, 0);
	signals = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);

	server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t size = channel_name(&name);
	if (signals < 0 || server < 0 || bind(server, (void *)&name, size) || listen(server, 64))
		return 9;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, 0);
	dup2(null, 1);
	dup2(null, 2);
	tell_with_files('U', 0);

	int busy = 0;
	for (;;) {
		int64_t now = now_ms();
		int was_busy = busy;
		if (now - clients_since >= 1000) {
			clients_since = now;
			clients = 0;
		}
		int full = clients >= CLIENTS_PER_S;
		struct pollfd on[4] = {
			{ signals, POLLIN, 0 }, { CONTROL, POLLIN, 0 },
			{ client < 0 && !full ? server : -1, POLLIN, 0 },
			{ client_state == ASKED ? -1 : client, POLLIN | POLLRDHUP, 0 } };
		int waiting = client >= 0 && client_state == CONNECTED;
		if (poll(on, 4, busy || waiting || full ? WATCH_MS : -1) < 0 && errno != EINTR)
			return 10;
		/* Signals first, always: by the time a client says that its shutdown script has
		 * returned, a TERM that the script sent is already pending here. */
		take_signals();
		busy = reap();
		if (on[1].revents && !from_host())
			return 0;
		if (on[2].revents) {
			client = accept4(server, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK);
			client_state = CONNECTED;
			client_since = now_ms();
			clients++;
		} else if (client >= 0 && client == on[3].fd && client_state != ASKED
			   && on[3].revents) {
			from_client();
		} else if (waiting && client >= 0 && client_state == CONNECTED
			   && now_ms() - client_since > SILENT_CLIENT_MS)
			drop_client();
		if (command > 0)
			busy = 1;
		if (busy && !was_busy) {
			/* What begins now holds nothing yet, and may make room for itself first. */
			watched = now_ms();
		} else if (busy && now_ms() - watched >= WATCH_MS) {
			watched = now_ms();
			watch();
		}
	}
}
