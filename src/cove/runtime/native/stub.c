/* The forker and its stubs: processes that cost next to nothing to fork, and do what they are told.
 *
 *   supervisor ── flags, [pid ns] [cgroup] ──▶ forker ── clone3(CLONE_PARENT) ──▶ stub, the supervisor's child
 *              ◀── pid, [pidfd, cord] ───────
 *   outfitter  ── program of operations, [descriptors] ──▶ stub     until one of them is execve
 *              ◀── index, errno, [descriptors] ───────────
 *
 * It knows nothing of containers. An operation is a system call: its number, up to six arguments (a number, a place
 * in the program's data, a descriptor that came, the result of an earlier operation) and the one errno that is no
 * failure. When all are done, results that are descriptors go back. A failed one ends its program; the stub tells which,
 * gives one descriptor back, and waits for the next program. End of file on its cord ends it. Packets are those of cove/ipc/channel.py, programs those of
 * cove/kernel/operations.py.
 *
 * Nothing is allocated; what comes in is from processes with the same rights, and is checked against its own sizes
 * all the same. Descriptor 3 is the supervisor's socket, or in a stub its cord.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#define INTO_CGROUP 0x200000000ULL

enum { SOCKET = 3, HEAD = 9, INLINE = 64 << 10, MOST_FDS = 32, MOST_OPERATIONS = 512, MOST_BACK = 8, MOST_OPEN = 1024, FAILED = 125 };
enum { IMMEDIATE, DATA, DESCRIPTOR, RESULT };
/* Not a system call: fork, the child goes on with the program, this process stays its init. */
enum { SPLIT = 0xffff };

struct packet {
    uint64_t number;
    char *body;
    size_t size;
    int fds[MOST_FDS];
    int count;
};

struct program {
    uint32_t operations, pointers, data;
    int32_t back; /* the descriptor to give back with a failure, by its index; -1: none */
};

struct operation {
    uint16_t call, tolerated;
    uint8_t kinds[8];
    uint32_t returned; /* the result is a descriptor that goes back */
    uint64_t arguments[6];
};

struct pointer {
    uint32_t at, to; /* in the data: there, the address of that */
};

static char buffer[HEAD + INLINE] __attribute__((aligned(16)));
static int given[4 * MOST_FDS], given_count; /* the descriptors that came, in their order */
static char *title;
static size_t title_size;

/* ── packets ─────────────────────────────────────────────────────────────────────────────────────── */

/* 0 at end of file or when what came makes no sense. */
static int receive(int socket, struct packet *packet)
{
    union { char room[CMSG_SPACE(MOST_FDS * sizeof(int))]; struct cmsghdr align; } control;
    struct iovec part = {buffer + 7, sizeof buffer - 7}; /* so that the body is aligned */
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size;

    do
        size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    packet->count = 0;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each))
        if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_RIGHTS) {
            packet->count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(packet->fds, CMSG_DATA(each), packet->count * sizeof(int));
        }
    if (size < HEAD || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        return 0;
    memcpy(&packet->number, buffer + 7, sizeof packet->number);
    packet->body = buffer + 7 + HEAD;
    packet->size = size - HEAD;
    if (buffer[7 + HEAD - 1]) { /* the body is in a memfd, the first descriptor */
        struct stat found;
        if (!packet->count || fstat(packet->fds[0], &found) || !found.st_size)
            return 0;
        packet->size = found.st_size;
        packet->body = mmap(0, packet->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, packet->fds[0], 0);
        if (packet->body == MAP_FAILED)
            return 0;
        close(packet->fds[0]);
        memmove(packet->fds, packet->fds + 1, --packet->count * sizeof(int));
    }
    return 1;
}

static void answer(int socket, uint64_t number, const void *body, size_t size, const int *fds, int count)
{
    union { char room[CMSG_SPACE(MOST_BACK * sizeof(int))]; struct cmsghdr align; } control;
    char head[HEAD] = {0};
    struct iovec parts[] = {{head, HEAD}, {(void *)body, size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

    memcpy(head, &number, sizeof number);
    if (count) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
    }
    sendmsg(socket, &message, MSG_NOSIGNAL);
}

/* ── process 1 of a container that has asked for an init ─────────────────────────────────────────── */

static int is_own(int number) /* about this process itself: a fault, a stop of its own */
{
    static const int own[] = {SIGKILL, SIGSTOP, SIGCHLD, SIGSEGV, SIGBUS, SIGILL,
                              SIGFPE,  SIGABRT, SIGTRAP, SIGSYS,  SIGTTIN, SIGTTOU};
    for (size_t at = 0; at < sizeof own / sizeof *own; at++)
        if (own[at] == number)
            return 1;
    return 0;
}

/* The minimal init: passes signals on to the program, buries orphans, ends as the program did. */
static void serve(pid_t program, const sigset_t *waited)
{
    if (syscall(SYS_close_range, 3, ~0U, 0)) /* a filter may know only older calls */
        for (int fd = SOCKET; fd < MOST_OPEN; fd++)
            close(fd);
    for (;;) {
        int number = sigwaitinfo(waited, 0), status, over = -1;
        if (number > 0 && number != SIGCHLD) {
            kill(program, number);
            continue;
        }
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
            if (pid == program)
                over = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (over >= 0)
            _exit(over);
    }
}

/* 0 in the child, which becomes the program; the parent never returns unless there can be no child (-1). */
static long split(int foreground)
{
    sigset_t waited;

    sigemptyset(&waited);
    for (int number = 1; number < NSIG; number++)
        if (number == SIGCHLD || !is_own(number))
            sigaddset(&waited, number);
    sigprocmask(SIG_BLOCK, &waited, 0);
    signal(SIGTTOU, SIG_IGN);
    pid_t program = fork();
    if (program < 0)
        return -1;
    if (program) {
        memset(title, 0, title_size);
        strncpy(title, "/sbin/cove-init", title_size - 1);
        prctl(PR_SET_NAME, "cove-init");
        serve(program, &waited);
    }
    setpgid(0, 0);
    if (foreground)
        tcsetpgrp(0, getpgrp());
    signal(SIGTTOU, SIG_DFL);
    return 0;
}

/* ── the stub ────────────────────────────────────────────────────────────────────────────────────── */

/* The index of the operation that failed, with errno; or their number. -1: it is no program. `back`: what goes back. */
static long perform(const struct packet *packet, int back[MOST_BACK], int *count)
{
    static long results[MOST_OPERATIONS];
    const struct program *head = (const void *)packet->body;
    if (packet->size < sizeof *head || head->operations > MOST_OPERATIONS || head->pointers > packet->size)
        return -1;
    const struct operation *operations = (const void *)(head + 1);
    const struct pointer *pointers = (const void *)(operations + head->operations);
    char *data = (char *)(pointers + head->pointers);
    if (data + head->data != packet->body + packet->size)
        return -1;
    *count = 0;
    for (uint32_t at = 0; at < head->pointers; at++) {
        uint64_t address = (uintptr_t)(data + pointers[at].to);
        if (pointers[at].to > head->data || (uint64_t)pointers[at].at + sizeof address > head->data)
            return -1;
        memcpy(data + pointers[at].at, &address, sizeof address);
    }
    for (uint32_t at = 0; at < head->operations; at++) {
        const struct operation *each = &operations[at];
        long values[6];
        for (int i = 0; i < 6; i++) {
            uint64_t value = each->arguments[i];
            switch (each->kinds[i]) {
            case IMMEDIATE:
                values[i] = value;
                break;
            case DATA:
                if (value > head->data)
                    return -1;
                values[i] = (long)(data + value);
                break;
            case DESCRIPTOR:
                if (value >= (uint64_t)given_count)
                    return -1;
                values[i] = given[value];
                break;
            case RESULT:
                if (value >= at)
                    return -1;
                values[i] = results[value];
                break;
            default:
                return -1;
            }
        }
        results[at] = each->call == SPLIT ? split(values[0])
                                          : syscall(each->call, values[0], values[1], values[2], values[3], values[4], values[5]);
        if (results[at] == -1 && errno != each->tolerated) {
            *count = head->back >= 0 && head->back < given_count;
            if (*count)
                back[0] = given[head->back];
            return at;
        }
        if (each->returned && *count < MOST_BACK)
            back[(*count)++] = results[at];
    }
    errno = 0;
    return head->operations;
}

static void obey(void)
{
    struct packet packet;

    prctl(PR_SET_NAME, "cove-stub");
    while (receive(SOCKET, &packet)) {
        if (given_count + packet.count > (int)(sizeof given / sizeof *given))
            break;
        memcpy(given + given_count, packet.fds, packet.count * sizeof(int));
        given_count += packet.count;
        int back[MOST_BACK], count;
        long at = perform(&packet, back, &count);
        if (at < 0)
            break;
        int32_t told = errno;
        answer(SOCKET, at, &told, sizeof told, back, count);
        while (!told && count)
            close(back[--count]);
    }
    _exit(FAILED);
}

/* ── the forker ──────────────────────────────────────────────────────────────────────────────────── */

struct clone_arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* A stub in new namespaces, in the pid namespace and the control group of the packet, if it has any. 0 or errno. */
static int make(const struct packet *packet, int own, pid_t *pid, int fds[2])
{
    struct clone_arguments arguments = {.flags = packet->number | CLONE_PARENT | CLONE_PIDFD, .pidfd = (uintptr_t)&fds[0]};
    int ends[2], within = -1, reason = 0;

    if (packet->size != (size_t)packet->count)
        return EINVAL;
    for (int at = 0; at < packet->count; at++)
        if (packet->body[at] == 'c') {
            arguments.flags |= INTO_CGROUP;
            arguments.cgroup = packet->fds[at];
        } else if (packet->body[at] == 'p') {
            within = packet->fds[at];
        } else {
            return EINVAL;
        }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return errno;
    if (within >= 0 && setns(within, CLONE_NEWPID)) {
        reason = errno;
    } else {
        *pid = syscall(SYS_clone3, &arguments, sizeof arguments);
        if (*pid == 0) {
            dup3(ends[1], SOCKET, O_CLOEXEC);
            syscall(SYS_close_range, SOCKET + 1, ~0U, 0);
            obey();
        }
        reason = *pid < 0 ? errno : 0;
        if (within >= 0 && setns(own, CLONE_NEWPID))
            _exit(FAILED); /* the next ones would be born there too */
    }
    close(ends[1]);
    fds[1] = ends[0];
    if (reason)
        close(ends[0]);
    return reason;
}

static void put(char *text, int number) /* errno in digits */
{
    text[0] = '0' + number / 100 % 10;
    text[1] = '0' + number / 10 % 10;
    text[2] = '0' + number % 10;
}

int main(int count, char **words)
{
    struct packet packet;
    int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);

    title = words[0];
    title_size = words[count - 1] + strlen(words[count - 1]) - title;
    prctl(PR_SET_NAME, "cove-stubs");
    prctl(PR_SET_DUMPABLE, 0);
    fcntl(SOCKET, F_SETFD, FD_CLOEXEC);
    while (own >= 0 && receive(SOCKET, &packet)) {
        pid_t pid = 0;
        int fds[2];
        char text[3];
        int reason = make(&packet, own, &pid, fds);
        if (reason) {
            put(text, reason);
            answer(SOCKET, 0, text, sizeof text, 0, 0);
        } else {
            answer(SOCKET, pid, "", 0, fds, 2);
            close(fds[0]);
            close(fds[1]);
        }
        for (int at = 0; at < packet.count; at++)
            close(packet.fds[at]);
    }
    return 0;
}
