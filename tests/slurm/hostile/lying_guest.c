/*
 * A command that is root in a guest and turns against the host: it stops the agent, takes its end of the
 * channel, and speaks for it. tests/slurm/hostile.rs says what has to come of it.
 *
 *     lying_guest garbage      bytes that mean nothing, without end
 *     lying_guest endless      a frame that announces 4 GiB
 *     lying_guest flood        output beyond what the runner has granted
 *     lying_guest credit       more credit for stdin than was spent
 *     lying_guest exit         the end of the command before the end of its output, and then more output
 *     lying_guest warnings     more warnings than anybody reads, then an end
 *     lying_guest silent       nothing, after making the file "silent" in the working directory
 *     lying_guest crash        makes the agent crash, which is the guest's first process
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGENT 1
#define CHUNK 65536

enum { DATA = 64, WINDOW = 66, EXIT = 98, WARNING = 99 };

static int channel = -1;

static void die(const char *what)
{
	fprintf(stderr, "lying_guest: %s: %s\n", what, strerror(errno));
	exit(99);
}

/* The agent's own descriptor: the port can be opened once only. */
static void take_channel(void)
{
	int agent = syscall(SYS_pidfd_open, AGENT, 0);

	if (agent < 0)
		die("pidfd_open");
	for (int fd = 0; fd < 256 && channel < 0; fd++) {
		char name[64], target[256];
		ssize_t length;

		snprintf(name, sizeof(name), "/proc/%d/fd/%d", AGENT, fd);
		length = readlink(name, target, sizeof(target) - 1);
		target[length < 0 ? 0 : length] = 0;
		if (strstr(target, "vport"))
			channel = syscall(SYS_pidfd_getfd, agent, fd, 0);
	}
	if (channel < 0)
		die("no channel");
}

static void stop_agent(void)
{
	int status;

	if (ptrace(PTRACE_SEIZE, AGENT, 0, 0) || ptrace(PTRACE_INTERRUPT, AGENT, 0, 0))
		die("ptrace");
	waitpid(AGENT, &status, __WALL);
}

static void crash_agent(void)
{
	struct user_regs_struct registers;

	if (ptrace(PTRACE_GETREGS, AGENT, 0, &registers))
		die("registers");
	registers.rip = 8;
	if (ptrace(PTRACE_SETREGS, AGENT, 0, &registers) || ptrace(PTRACE_DETACH, AGENT, 0, 0))
		die("registers");
}

static void tell(const void *bytes, size_t length)
{
	const char *rest = bytes;

	while (length > 0) {
		struct pollfd port = { .fd = channel, .events = POLLOUT };
		ssize_t n = write(channel, rest, length);

		if (n < 0 && errno != EAGAIN)
			die("write");
		if (n < 0)
			poll(&port, 1, -1);
		rest += n < 0 ? 0 : n;
		length -= n < 0 ? 0 : n;
	}
}

static void frame(uint8_t kind, uint8_t stream, const void *payload, uint32_t length)
{
	uint8_t bytes[8 + CHUNK] = { kind, stream };

	memcpy(bytes + 4, &length, 4);
	memcpy(bytes + 8, payload, length);
	tell(bytes, 8 + length);
}

int main(int argc, char **argv)
{
	static char bytes[CHUNK];
	const char *how = argc == 2 ? argv[1] : "";

	take_channel();
	/* What the agent has begun to say it says to the end. */
	sleep(1);
	stop_agent();
	memset(bytes, 'x', sizeof(bytes));
	if (!strcmp(how, "garbage")) {
		for (uint32_t seed = 1;;) {
			for (size_t i = 0; i < sizeof(bytes); i++) {
				seed = seed * 1664525 + 1013904223;
				bytes[i] = seed >> 24;
			}
			tell(bytes, sizeof(bytes));
		}
	} else if (!strcmp(how, "endless")) {
		uint8_t header[8] = { DATA, 1, 0, 0, 0xff, 0xff, 0xff, 0xff };

		tell(header, sizeof(header));
		for (;;)
			tell(bytes, sizeof(bytes));
	} else if (!strcmp(how, "flood")) {
		for (;;)
			frame(DATA, 1, bytes, sizeof(bytes));
	} else if (!strcmp(how, "credit")) {
		frame(WINDOW, 0, "\xff\xff\xff\x7f", 4);
		pause();
	} else if (!strcmp(how, "exit")) {
		frame(DATA, 1, "early\n", 6);
		frame(EXIT, 0, "\0\3", 2);
		for (;;)
			frame(DATA, 1, "late\n", 5);
	} else if (!strcmp(how, "warnings")) {
		for (int i = 0; i < 2000; i++)
			frame(WARNING, 0, bytes, 500);
		frame(EXIT, 0, "\0\5", 2);
		pause();
	} else if (!strcmp(how, "silent")) {
		fclose(fopen("silent", "w"));
		pause();
	} else if (!strcmp(how, "crash")) {
		crash_agent();
		pause();
	}
	return 99;
}
