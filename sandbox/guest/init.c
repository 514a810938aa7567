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
 *                  Q N | Q C int32 status   next_question asks; its shutdown script has returned
 *                  G                        next_question went away in the middle
 *                  L name                   a limit of the sandbox was met, everything was killed
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
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <grp.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"

#define CONTROL 3
#define HOME "/home/user"
#define WORK HOME "/work"
#define CONTENT_MAX 4096
#define HASH_MAX (1 << 20)
#define WATCH_MS 100
#define SILENT_CLIENT_MS 8000
#define CLIENTS_PER_S 200 /* a flood of questions costs this sandbox, not the host */
#define SOCKET_BYTES (208 << 10) /* what an unread socket may hold of the kernel's memory */

struct boot {
	uint64_t uid, processes, open_files, file_bytes, address_bytes, cpu_s, memory_bytes, files;
};

static struct boot limits;
static int two_users;
static int *exec_failed; /* shared with a command until it execs: its errno */
static char packet[160 * 1024]; /* a command is at most 128 KiB: the kernel's MAX_ARG_STRLEN */
static pid_t command = -1;
static int signals = -1, server = -1;
static int client = -1;
static enum { CONNECTED, ASKED, SHUTTING_DOWN } client_state;
static int64_t client_since;
static int64_t clients_since; /* the second that `clients` counts */
static int clients;

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

static char *put_number(char *at, uint64_t value, unsigned base)
{
	char digits[24];
	int n = 0;
	do
		digits[n++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (n)
		*at++ = digits[--n];
	*at++ = ' ';
	return at;
}

static char *put_text(char *at, const char *text)
{
	size_t n = strlen(text);
	memcpy(at, text, n);
	return at + n;
}

/* "KIND MODE(octal) UID SIZE DIGEST(hex or -) LENGTH\n" and LENGTH bytes of content. */
static char *put_file(char *at, const char *path)
{
	static unsigned char block[65536];
	static char content[CONTENT_MAX];
	struct stat st;
	ssize_t kept = 0;
	uint64_t hash = 0;
	int hashed = 0;
	if (lstat(path, &st) < 0)
		return put_text(at, "missing 0 0 0 - 0 \n");
	if (S_ISREG(st.st_mode)) {
		int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			ssize_t n, total = 0;
			hash = 0xcbf29ce484222325u; /* FNV-1a, 64 bit */
			hashed = 1;
			while (total < HASH_MAX && (n = read(fd, block, sizeof block)) > 0) {
				for (ssize_t i = 0; i < n; i++)
					hash = (hash ^ block[i]) * 0x100000001b3u;
				if (st.st_size <= CONTENT_MAX && total + n <= CONTENT_MAX) {
					memcpy(content + total, block, n);
					kept = total + n;
				}
				total += n;
			}
			close(fd);
		}
	} else if (S_ISLNK(st.st_mode)) {
		kept = readlink(path, content, sizeof content);
		if (kept < 0)
			kept = 0;
	}
	at = put_text(at, S_ISREG(st.st_mode) ? "file " : S_ISDIR(st.st_mode) ? "dir "
			: S_ISLNK(st.st_mode) ? "symlink " : "other ");
	at = put_number(at, st.st_mode & 07777, 8);
	at = put_number(at, st.st_uid, 10);
	at = put_number(at, st.st_size, 10);
	if (hashed)
		at = put_number(at, hash, 16);
	else
		at = put_text(at, "- ");
	at = put_number(at, kept, 10);
	*at++ = '\n';
	memcpy(at, content, kept);
	return at + kept;
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

static void limit(int resource, uint64_t value)
{
	struct rlimit r = { value, value };
	if (value && setrlimit(resource, &r) < 0)
		_exit(2);
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
	*exec_failed = 0;
	pid_t pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDONLY);
		setsid();
		dup2(null, 0);
		dup2(out, 1);
		dup2(err, 2);
		if (syscall(SYS_close_range, 3, ~0u, 0) < 0)
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
		limit(RLIMIT_CPU, limits.cpu_s);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, 0);
		if (chdir(WORK) && chdir(HOME) && chdir("/")) {}
		char *argv[] = { "bash", "--login", "-c", text, 0 };
		execve("/bin/bash", argv, environ);
		*exec_failed = errno;
		_exit(127);
	}
	int32_t failed = errno;
	close(out);
	close(err);
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
	ssize_t n = recv(client, report + 1, client_state == SHUTTING_DOWN ? 5 : 1, MSG_DONTWAIT);
	/* After the read: a TERM sent before the client wrote is pending by now. */
	take_signals();
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (client_state == CONNECTED && n == 1 && report[1] == ASK_NEXT)
		tell(report, 2);
	else if (client_state == SHUTTING_DOWN && n == 5 && report[1] == ASK_ON)
		tell(report, 6);
	else {
		drop_client();
		return;
	}
	client_state = ASKED;
}

/* Returns 1 while any process but PID 1 is left. */
static int reap(void)
{
	int32_t ended = -1;
	int status, left;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == command) {
			command = -1;
			ended = status;
		}
	left = pid == 0;
	if (ended >= 0) {
		/* A TERM that the command sent before it ended comes first. */
		take_signals();
		if (left)
			lower_priority();
		if (*exec_failed)
			tell_failed(*exec_failed);
		else
			tell_with_files('E', &ended);
	}
	return left;
}

/* The number after `name` in a small file of /proc; 0 where there is none. */
static uint64_t number_in(const char *path, const char *name)
{
	char text[256];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	const char *at = strstr(text, name);
	return at ? strtoull(at + strlen(name), 0, 10) : 0;
}

/* Memory of all processes together, what their sockets may hold, and the number of files: none has
 * a limit that the kernel keeps for us where there is no cgroup. */
static void watch(void)
{
	const char *met = 0;
	uint64_t pages = 0, bytes, files = 0;
	struct statfs fs;
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	while (proc && (entry = readdir(proc))) {
		char path[64] = "/proc/";
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || strlen(entry->d_name) > 10)
			continue;
		strcpy(stpcpy(path + 6, entry->d_name), "/statm");
		pages += number_in(path, " "); /* "size resident ...", in pages */
	}
	if (proc)
		closedir(proc);
	bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE)
		+ number_in("/proc/net/sockstat", "sockets: used ") * SOCKET_BYTES;
	if (statfs(HOME, &fs) == 0)
		files += fs.f_files - fs.f_ffree;
	if (statfs("/tmp", &fs) == 0)
		files += fs.f_files - fs.f_ffree;
	if (limits.memory_bytes && bytes > limits.memory_bytes)
		met = "Lmemory";
	else if (limits.files && files > limits.files)
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
	exec_failed = mmap(0, sizeof *exec_failed, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (exec_failed == MAP_FAILED)
		return 13;
	become_user();
	umask(022);
	/* What the run ignores (Python: SIGPIPE), every program here would ignore. */
	for (int n = 1; n <= 64; n++)
		syscall(SYS_rt_sigaction, n, no_action, 0, 8);
	limit(RLIMIT_NPROC, limits.processes);
	limit(RLIMIT_NOFILE, limits.open_files);
	limit(RLIMIT_FSIZE, limits.file_bytes);
	limit(RLIMIT_SIGPENDING, limits.open_files);
	struct rlimit no_core = { 0, 0 };
	setrlimit(RLIMIT_CORE, &no_core);

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
		} else if (client >= 0 && client == on[3].fd && on[3].revents) {
			from_client();
		} else if (waiting && client >= 0 && client_state == CONNECTED
			   && now_ms() - client_since > SILENT_CLIENT_MS)
			drop_client();
		if (command > 0)
			busy = 1;
		if (busy && now_ms() - watched >= WATCH_MS) {
			watched = now_ms();
			watch();
		}
	}
}
