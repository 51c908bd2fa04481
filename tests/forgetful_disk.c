/* Writes down, in order, what a process asks of the disk below one folder, and what it sends.
 *
 * Preloaded into `hilum serve` (LD_PRELOAD). Environment: FORGETFUL_ROOT, the folder that is
 * watched (absolute, no symbolic links); FORGETFUL_LOG, the file that gets the records, outside of
 * that folder. Every call is carried out, too. tests/forgetful_disk.py reads the log and makes from
 * it what a disk would hold that lost power at any point of it.
 *
 * A change and its record are one step for the threads of a process. A sync has two records, before
 * and after: what was written before the first is safe after the second. What is sent is recorded
 * before it leaves. Writes through memory maps, stdio and io_uring are not seen; shared writable
 * maps and copies inside the kernel are recorded by name, so that the reader can refuse them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#if !defined(__LP64__)
#error "64-bit systems only: offsets are passed whole"
#endif

struct record {
    uint32_t kind, first_length, second_length, port;
    uint64_t inode, offset, data_length, token;
} __attribute__((packed));

static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_length;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint syncs;
enum { SENT_BYTES = 4096, LOG_FD = 200 };

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("FORGETFUL_ROOT"), *log = getenv("FORGETFUL_LOG");
    if (!folder || !log || strlen(folder) >= sizeof root)
        return;
    strcpy(root, folder);
    root_length = strlen(root);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        abort();
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, LOG_FD);
    syscall(SYS_close, fd);
}

static void put(struct record head, const char *first, const char *second, const struct iovec *parts,
                int count)
{
    struct iovec out[3 + 64];
    int saved = errno, n = 0;
    if (log_fd < 0)
        return;
    head.first_length = first ? (uint32_t)strlen(first) : 0;
    head.second_length = second ? (uint32_t)strlen(second) : 0;
    out[n++] = (struct iovec){&head, sizeof head};
    out[n++] = (struct iovec){(void *)first, head.first_length};
    out[n++] = (struct iovec){(void *)second, head.second_length};
    uint64_t left = head.data_length;
    for (int i = 0; i < count && left; i++) {
        size_t some = parts[i].iov_len < left ? parts[i].iov_len : left;
        if (n == 3 + 64)
            abort(); /* more parts than we can write in one step */
        out[n++] = (struct iovec){parts[i].iov_base, some};
        left -= some;
    }
    ssize_t total = 0;
    for (int i = 0; i < n; i++)
        total += out[i].iov_len;
    if (syscall(SYS_writev, log_fd, out, n) != total)
        abort(); /* a log with holes proves nothing */
    errno = saved;
}

static int is_watched(const char *path)
{
    return log_fd >= 0 && root_length && !strncmp(path, root, root_length) &&
           (path[root_length] == '/' || !path[root_length]);
}

static int path_of_fd(int fd, char *path)
{
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    errno = saved;
    path[n > 0 ? n : 0] = 0;
    return n > 0;
}

static int whole_path(int folder, const char *name, char *path)
{
    char start[PATH_MAX] = "";
    if (!name || !*name)
        return 0;
    if (*name != '/') {
        if (folder != AT_FDCWD) {
            if (!path_of_fd(folder, start))
                return 0;
        } else if (syscall(SYS_getcwd, start, sizeof start) < 0)
            return 0;
    }
    int n = *name == '/' ? snprintf(path, PATH_MAX, "%s", name)
                         : snprintf(path, PATH_MAX, "%s/%s", start, name);
    return n > 0 && n < PATH_MAX && is_watched(path);
}

/* 1: a regular file below the root; 2: a folder below it; 0: anything else */
static int watched_fd(int fd, char *path, struct stat *found)
{
    int saved = errno, answer = 0;
    if (log_fd >= 0 && fd >= 0 && fd != log_fd && !fstat(fd, found) &&
        (S_ISREG(found->st_mode) || S_ISDIR(found->st_mode)) && path_of_fd(fd, path) &&
        is_watched(path))
        answer = S_ISDIR(found->st_mode) ? 2 : 1;
    errno = saved;
    return answer;
}

/* --- files are opened --------------------------------------------------------------------- */

static int open_any(int folder, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    struct stat before, after;
    int changes = flags & (O_CREAT | O_TRUNC);
    if ((flags & O_TMPFILE) == O_TMPFILE && whole_path(folder, name, path))
        put((struct record){.kind = 'X'}, "O_TMPFILE", path, NULL, 0);
    if (!changes || !whole_path(folder, name, path))
        return (int)syscall(SYS_openat, folder, name, flags, mode);
    pthread_mutex_lock(&turn);
    int existed = !fstatat(AT_FDCWD, path, &before, 0);
    int fd = (int)syscall(SYS_openat, folder, name, flags, mode);
    if (fd >= 0 && !fstat(fd, &after) && S_ISREG(after.st_mode)) {
        if (!existed)
            put((struct record){.kind = 'C', .inode = after.st_ino}, path, NULL, NULL, 0);
        else if (flags & O_TRUNC)
            put((struct record){.kind = 'T', .inode = after.st_ino}, NULL, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return fd;
}

#define MODE(flags, mode)                                                                          \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                         \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode = va_arg(more, mode_t);                                                               \
        va_end(more);                                                                              \
    }
int open(const char *p, int flags, ...) { MODE(flags, m) return open_any(AT_FDCWD, p, flags, m); }
int open64(const char *p, int flags, ...) { MODE(flags, m) return open_any(AT_FDCWD, p, flags, m); }
int openat(int d, const char *p, int flags, ...) { MODE(flags, m) return open_any(d, p, flags, m); }
int openat64(int d, const char *p, int flags, ...) { MODE(flags, m) return open_any(d, p, flags, m); }
int creat(const char *p, mode_t m) { return open_any(AT_FDCWD, p, O_CREAT | O_WRONLY | O_TRUNC, m); }
int creat64(const char *p, mode_t m) { return creat(p, m); }
int __open_2(const char *p, int flags) { return open_any(AT_FDCWD, p, flags, 0); }
int __open64_2(const char *p, int flags) { return open_any(AT_FDCWD, p, flags, 0); }
int __openat_2(int d, const char *p, int flags) { return open_any(d, p, flags, 0); }
int __openat64_2(int d, const char *p, int flags) { return open_any(d, p, flags, 0); }

/* --- files are written -------------------------------------------------------------------- */

static void note_sent(int fd, const struct iovec *parts, int count)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    int saved = errno;
    uint64_t total = 0;
    if (log_fd < 0 || getpeername(fd, (struct sockaddr *)&peer, &length)) {
        errno = saved;
        return;
    }
    uint32_t port = 0;
    if (peer.ss_family == AF_INET)
        port = ntohs(((struct sockaddr_in *)&peer)->sin_port);
    else if (peer.ss_family == AF_INET6)
        port = ntohs(((struct sockaddr_in6 *)&peer)->sin6_port);
    for (int i = 0; i < count; i++)
        total += parts[i].iov_len;
    if (port)
        put((struct record){.kind = 'N',
                            .port = port,
                            .data_length = total < SENT_BYTES ? total : SENT_BYTES},
            NULL, NULL, parts, count > 64 ? 64 : count);
    errno = saved;
}

static ssize_t write_any(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    char path[PATH_MAX];
    struct stat found;
    int is_positioned = offset >= 0;
    int kind = watched_fd(fd, path, &found);
    if (kind == 1)
        pthread_mutex_lock(&turn);
    else if (log_fd >= 0 && fd != log_fd && !is_positioned) {
        int saved = errno;
        if (!fstat(fd, &found) && S_ISSOCK(found.st_mode))
            note_sent(fd, parts, count);
        errno = saved;
    }
    ssize_t n = is_positioned ? syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags)
                              : syscall(SYS_writev, fd, parts, count);
    if (kind == 1) {
        int saved = errno;
        if (n > 0) {
            off_t begin = is_positioned ? offset : lseek(fd, 0, SEEK_CUR) - n;
            if (is_positioned && (fcntl(fd, F_GETFL) & O_APPEND) && !fstat(fd, &found))
                begin = found.st_size - n; /* Linux appends whatever the offset says */
            put((struct record){.kind = 'W', .inode = found.st_ino, .offset = begin, .data_length = n},
                NULL, NULL, parts, count);
        }
        pthread_mutex_unlock(&turn);
        errno = saved;
    }
    return n;
}

ssize_t write(int fd, const void *b, size_t n)
{
    return write_any(fd, &(struct iovec){(void *)b, n}, 1, -1, 0);
}
ssize_t writev(int fd, const struct iovec *v, int n) { return write_any(fd, v, n, -1, 0); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o)
{
    return write_any(fd, &(struct iovec){(void *)b, n}, 1, o, 0);
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { return pwrite(fd, b, n, o); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t o) { return write_any(fd, v, n, o, 0); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t o) { return pwritev(fd, v, n, o); }
ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t o, int f)
{
    return write_any(fd, v, n, o, f);
}
ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off64_t o, int f)
{
    return write_any(fd, v, n, o, f);
}

static int resize(int fd, off_t size, int mode, off_t offset)
{
    char path[PATH_MAX];
    struct stat found, now;
    int kind = watched_fd(fd, path, &found);
    if (kind == 1)
        pthread_mutex_lock(&turn);
    int answer = (int)(mode < 0 ? syscall(SYS_ftruncate, fd, size)
                                : syscall(SYS_fallocate, fd, mode, offset, size));
    if (kind == 1) {
        int saved = errno;
        if (!answer && mode > FALLOC_FL_KEEP_SIZE)
            put((struct record){.kind = 'X'}, "fallocate that changes content", path, NULL, 0);
        if (!answer && !fstat(fd, &now) && (mode < 0 || now.st_size != found.st_size))
            put((struct record){.kind = 'T', .inode = now.st_ino, .offset = now.st_size}, NULL, NULL,
                NULL, 0);
        pthread_mutex_unlock(&turn);
        errno = saved;
    }
    return answer;
}

int ftruncate(int fd, off_t size) { return resize(fd, size, -1, 0); }
int ftruncate64(int fd, off64_t size) { return resize(fd, size, -1, 0); }
int fallocate(int fd, int mode, off_t o, off_t n) { return resize(fd, n, mode, o); }
int fallocate64(int fd, int mode, off64_t o, off64_t n) { return resize(fd, n, mode, o); }
int posix_fallocate(int fd, off_t o, off_t n) { return resize(fd, n, 0, o) ? errno : 0; }
int posix_fallocate64(int fd, off64_t o, off64_t n) { return posix_fallocate(fd, o, n); }
int truncate(const char *name, off_t size)
{
    int fd = open_any(AT_FDCWD, name, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int answer = resize(fd, size, -1, 0), saved = errno;
    syscall(SYS_close, fd);
    errno = saved;
    return answer;
}
int truncate64(const char *name, off64_t size) { return truncate(name, size); }

/* --- names change ------------------------------------------------------------------------- */

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    char first[PATH_MAX], second[PATH_MAX];
    int is_from = whole_path(from_folder, from, first), is_to = whole_path(to_folder, to, second);
    if (!is_from && !is_to)
        return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    pthread_mutex_lock(&turn);
    int answer = (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (!answer && is_from && is_to && !(flags & RENAME_EXCHANGE))
        put((struct record){.kind = 'R'}, first, second, NULL, 0);
    else if (!answer)
        put((struct record){.kind = 'X'}, "rename across the root, or exchange",
            is_from ? first : second, NULL, 0);
    pthread_mutex_unlock(&turn);
    return answer;
}
int renameat(int a, const char *p, int b, const char *q) { return renameat2(a, p, b, q, 0); }
int rename(const char *p, const char *q) { return renameat2(AT_FDCWD, p, AT_FDCWD, q, 0); }

static int by_name(char kind, long number, int folder, const char *name, long third)
{
    char path[PATH_MAX];
    int watched = whole_path(folder, name, path);
    if (watched)
        pthread_mutex_lock(&turn);
    int answer = (int)syscall(number, folder, name, third);
    if (watched) {
        if (!answer)
            put((struct record){.kind = (uint32_t)kind}, path, NULL, NULL, 0);
        pthread_mutex_unlock(&turn);
    }
    return answer;
}
int unlinkat(int d, const char *p, int flags)
{
    return by_name(flags & AT_REMOVEDIR ? 'D' : 'U', SYS_unlinkat, d, p, flags);
}
int unlink(const char *p) { return unlinkat(AT_FDCWD, p, 0); }
int rmdir(const char *p) { return unlinkat(AT_FDCWD, p, AT_REMOVEDIR); }
int mkdirat(int d, const char *p, mode_t m) { return by_name('M', SYS_mkdirat, d, p, m); }
int mkdir(const char *p, mode_t m) { return mkdirat(AT_FDCWD, p, m); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    char path[PATH_MAX];
    struct stat found;
    int watched = whole_path(to_folder, to, path);
    if (watched)
        pthread_mutex_lock(&turn);
    int answer = (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    if (watched) {
        if (!answer && !fstatat(AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW))
            put((struct record){.kind = 'L', .inode = found.st_ino}, path, NULL, NULL, 0);
        pthread_mutex_unlock(&turn);
    }
    return answer;
}
int link(const char *p, const char *q) { return linkat(AT_FDCWD, p, AT_FDCWD, q, 0); }

/* --- syncs -------------------------------------------------------------------------------- */

static int sync_any(int fd, long number)
{
    char path[PATH_MAX];
    struct stat found;
    int kind = watched_fd(fd, path, &found);
    struct record head = {.kind = 'S', .token = (uint64_t)getpid() << 32 | atomic_fetch_add(&syncs, 1)};
    if (kind) {
        head.inode = kind == 1 ? found.st_ino : 0;
        put(head, kind == 2 ? path : NULL, NULL, NULL, 0);
    }
    int answer = (int)syscall(number, fd);
    if (kind && !answer) {
        head.kind = 's';
        put(head, kind == 2 ? path : NULL, NULL, NULL, 0);
    }
    return answer;
}
int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

/* --- what is sent ------------------------------------------------------------------------- */

ssize_t sendto(int fd, const void *b, size_t n, int f, const struct sockaddr *to, socklen_t length)
{
    note_sent(fd, &(struct iovec){(void *)b, n}, 1);
    return syscall(SYS_sendto, fd, b, n, f, to, length);
}
ssize_t send(int fd, const void *b, size_t n, int f) { return sendto(fd, b, n, f, NULL, 0); }
ssize_t sendmsg(int fd, const struct msghdr *m, int f)
{
    note_sent(fd, m->msg_iov, (int)m->msg_iovlen);
    return syscall(SYS_sendmsg, fd, m, f);
}

/* --- what we cannot follow ---------------------------------------------------------------- */

static void refuse(const char *what, int fd)
{
    char path[PATH_MAX];
    struct stat found;
    if (watched_fd(fd, path, &found) == 1)
        put((struct record){.kind = 'X'}, what, path, NULL, 0);
}
void *mmap64(void *at, size_t n, int protection, int flags, int fd, off64_t offset)
{
    int is_shared = (flags & MAP_SHARED) || (flags & MAP_TYPE) == MAP_SHARED_VALIDATE;
    if (fd >= 0 && (protection & PROT_WRITE) && is_shared && !(flags & MAP_ANONYMOUS))
        refuse("mmap", fd);
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}
void *mmap(void *at, size_t n, int p, int f, int fd, off_t o) { return mmap64(at, n, p, f, fd, o); }
ssize_t sendfile64(int to, int from, off64_t *offset, size_t n)
{
    refuse("sendfile", to);
    return syscall(SYS_sendfile, to, from, offset, n);
}
ssize_t sendfile(int to, int from, off_t *o, size_t n) { return sendfile64(to, from, o, n); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags)
{
    refuse("copy_file_range", to);
    return syscall(SYS_copy_file_range, from, a, to, b, n, flags);
}
ssize_t splice(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags)
{
    refuse("splice", to);
    return syscall(SYS_splice, from, a, to, b, n, flags);
}
