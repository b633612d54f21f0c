/* Loaded into the program that makes a step's network. Each of its steps there is one of the calls below; they are counted from 1.
 *
 *     MOMENT=N WHO=self     it is killed when it is about to take step N
 *     MOMENT=N WHO=parent   the slurmstepd that waits for it is, and it goes on
 *     REFUSE=vxlan          the kernel has no devices or chains of that name, and says so as it does without the module
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static struct nlmsghdr refused;

static void step(void)
{
    static int count;
    const char *moment = getenv("MOMENT"), *who = getenv("WHO");

    if (!moment || ++count != atoi(moment))
        return;
    kill(who && !strcmp(who, "parent") ? getppid() : getpid(), SIGKILL);
}

int unshare(int flags)
{
    step();
    return REAL(unshare)(flags);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    step();
    return REAL(ioctl)(fd, request, argument);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    step();
    return REAL(waitpid)(pid, status, options);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    step();
    return REAL(sendmsg)(fd, message, flags);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags)
{
    const char *kind = getenv("REFUSE");

    step();
    if (kind && length > sizeof refused && memmem(bytes, length, kind, strlen(kind) + 1)) {
        memcpy(&refused, bytes, sizeof refused);
        return (ssize_t)length;
    }
    return REAL(send)(fd, bytes, length, flags);
}

ssize_t recv(int fd, void *buffer, size_t room, int flags)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
    } answer;

    if (!refused.nlmsg_len)
        return REAL(recv)(fd, buffer, room, flags);
    memset(&answer, 0, sizeof answer);
    answer.head = refused;
    answer.head.nlmsg_len = sizeof answer;
    answer.head.nlmsg_type = NLMSG_ERROR;
    answer.error.error = -EOPNOTSUPP;
    refused.nlmsg_len = 0;
    memcpy(buffer, &answer, sizeof answer);
    return sizeof answer;
}
