/* ./next_question: asks PID 1 for the next question and prints it.
 *
 * It knows no question, no answer and no count: those live outside the sandbox. When told that the
 * shutdown is due it runs ./shutdown.sh, relative to its caller's folder (docs/paper.md), and asks
 * to go on when the script returns, which it only does where the machine is still up.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"

static const struct timespec a_moment = { 0, 20 * 1000 * 1000 };

static void say(int fd, const char *text, size_t size)
{
	while (size) {
		ssize_t n = write(fd, text, size);
		if (n <= 0)
			return;
		text += n;
		size -= n;
	}
}

static void say_number(int fd, char kind, int32_t number)
{
	char message[5] = { kind };
	memcpy(message + 1, &number, 4);
	say(fd, message, sizeof message);
}

/* Says to PID 1 that the script begins, and becomes it. A script that never began, for want of
 * processes, has not been kept from anything. */
static void become_script(int s)
{
	static const volatile unsigned char masked[] = {
		'.' ^ MASK, '/' ^ MASK, 's' ^ MASK, 'h' ^ MASK, 'u' ^ MASK, 't' ^ MASK, 'd' ^ MASK,
		'o' ^ MASK, 'w' ^ MASK, 'n' ^ MASK, '.' ^ MASK, 's' ^ MASK, 'h' ^ MASK, 0 ^ MASK };
	char path[sizeof masked];
	unmask(path, masked, sizeof masked);
	char *argv[] = { path, 0 };
	char *as_shell[] = { "sh", path, 0 };
	say_number(s, SAY_BEGUN, 0);
	/* However many files the caller has open, the script has room for its own. */
	if (syscall(SYS_close_range, 3, ~0u, 0) < 0) {}
	for (;;) {
		execve(path, argv, environ);
		/* A file without a shebang is run by the shell, as every shell does. */
		if (errno == ENOEXEC)
			execve("/bin/sh", as_shell, environ);
		/* What passes is no reason to go on as if the script had returned. */
		if (errno != EAGAIN && errno != ENOMEM && errno != ENFILE)
			break;
		nanosleep(&a_moment, 0);
	}
	/* Not strerror(): its table has words that tell what this is about. */
	const char *why = errno == ENOENT ? "No such file or directory"
		: errno == EACCES ? "Permission denied" : "cannot execute";
	say(2, path, strlen(path));
	say(2, ": ", 2);
	say(2, why, strlen(why));
	say(2, "\n", 1);
	_exit(127);
}

static int32_t run_script(int s)
{
	int status = -1;
	pid_t pid;
	/* Nor is a full process table. */
	while ((pid = fork()) < 0)
		nanosleep(&a_moment, 0);
	if (pid == 0)
		become_script(s);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
	return status;
}

int main(void)
{
	struct sockaddr_un name;
	socklen_t size = channel_name(&name);
	char buffer[4096];
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int tries = 0;
	while (s < 0 || connect(s, (void *)&name, size) < 0) {
		if (s < 0 || errno != EAGAIN || ++tries > 400)
			return 1;
		nanosleep(&a_moment, 0);
	}
	static const char ask = ASK_NEXT;
	say(s, &ask, 1);
	for (;;) {
		ssize_t n = read(s, buffer, sizeof buffer);
		if (n <= 0)
			return 1;
		if (buffer[0] != 'S') {
			say(1, buffer + 1, n - 1);
			while ((n = read(s, buffer, sizeof buffer)) > 0)
				say(1, buffer, n);
			return 0;
		}
		say_number(s, ASK_ON, run_script(s));
	}
}
