/*
 * Lets the n-th operation on files below a folder fail, as SQLite tests itself: preloaded (LD_PRELOAD) before the C library, and told by the
 * process itself what shall fail (nth_fault_arm). Counted are opens that may change something, writes, syncs, truncations, renames, links,
 * removals and new folders. Everything else, and every other file, goes straight through.
 *
 * A failing open or write may say that there is no room; a failing write that says so has written a part, as a full disk does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
#define TRACE_BYTES (4 * 1024 * 1024)
static char folder[PATH_MAX], last[PATH_MAX + 32], trace[TRACE_BYTES];
static size_t traced;
static size_t folder_length;
static long counted, failing, failed;
static int error_number, lasting, armed;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define EXPORT __attribute__((visibility("default")))

/* `nth` from 1; 0: only count. `lasting`: that one and all after it. */
EXPORT void nth_fault_arm(const char *where, long nth, int error, int stays) {
  pthread_mutex_lock(&lock);
  snprintf(folder, sizeof folder, "%s", where);
  folder_length = strlen(folder);
  counted = failed = 0;
  failing = nth;
  error_number = error;
  lasting = stays;
  last[0] = 0;
  trace[traced = 0] = 0;
  armed = 1;
  pthread_mutex_unlock(&lock);
}
/* Answers how many operations there were. */
EXPORT long nth_fault_disarm(void) {
  armed = 0;
  return counted;
}
/* How many of them failed, and what the first of these was: `fsync <path>`. */
EXPORT long nth_fault_failed(void) { return failed; }
EXPORT const char *nth_fault_last(void) { return last; }
EXPORT long nth_fault_count(void) { return counted; }
/* All of them in order, one a line: `fsync <path>`; a rename says from where after a tab. */
EXPORT const char *nth_fault_trace(void) { return trace; }

static void note(const char *what, const char *path, const char *from) {
  if (failing != 0 || traced + 2 * PATH_MAX + 32 > TRACE_BYTES) return;
  traced += (size_t)snprintf(trace + traced, TRACE_BYTES - traced, "%s %s%s%s\n", what, path, from ? "\t" : "", from ? from : "");
}

static int below(const char *path) { return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == 0 || path[folder_length] == '/'); }

static int fails(const char *what, const char *path, const char *from) {
  if (!below(path)) return 0;
  pthread_mutex_lock(&lock);
  counted++;
  note(what, path + folder_length, from && below(from) ? from + folder_length : NULL);
  int now = failing > 0 && (counted == failing || (lasting && counted > failing));
  if (now && failed++ == 0) snprintf(last, sizeof last, "%s %.*s", what, PATH_MAX - 1, path + folder_length);
  pthread_mutex_unlock(&lock);
  if (now) errno = error_number;
  return now;
}
static int fd_fails(const char *what, int fd) {
  if (!armed) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = syscall(SYS_readlink, link, path, PATH_MAX - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  /* An open file whose name was removed is of no interest to anybody. */
  if (length > 10 && strcmp(path + length - 10, " (deleted)") == 0) return 0;
  return fails(what, path, NULL);
}
static int path_fails(const char *what, int dir, const char *path, const char *from) {
  if (!armed) return 0;
  char full[PATH_MAX * 2], base[PATH_MAX], link[64];
  ssize_t length;
  /* A name below an open folder, as /proc/self/fd/<n>/<name>. */
  int given, at;
  if (sscanf(path, "/proc/self/fd/%d/%n", &given, &at) == 1) {
    dir = given;
    path += at;
  } else if (path[0] == '/')
    return fails(what, path, from);
  if (dir == AT_FDCWD) length = getcwd(base, sizeof base) ? (ssize_t)strlen(base) : 0;
  else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    length = syscall(SYS_readlink, link, base, PATH_MAX - 1);
  }
  if (length <= 0) return 0;
  snprintf(full, sizeof full, "%.*s/%s", (int)length, base, path);
  return fails(what, full, from);
}

/* The part of a write that a full disk still takes. */
static size_t part_of(size_t size) { return error_number == ENOSPC && size > 1 ? size / 2 : 0; }

EXPORT ssize_t write(int fd, const void *data, size_t size) {
  if (!fd_fails("write", fd)) return REAL(write)(fd, data, size);
  size_t part = lasting ? part_of(size) : 0;
  return part > 0 && failed == 1 ? REAL(write)(fd, data, part) : -1;
}
EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return fd_fails("write", fd) ? -1 : REAL(pwrite)(fd, data, size, at); }
EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return fd_fails("write", fd) ? -1 : REAL(pwrite64)(fd, data, size, at); }
EXPORT ssize_t writev(int fd, const struct iovec *data, int count) { return fd_fails("write", fd) ? -1 : REAL(writev)(fd, data, count); }
EXPORT ssize_t pwritev(int fd, const struct iovec *data, int count, off_t at) { return fd_fails("write", fd) ? -1 : REAL(pwritev)(fd, data, count, at); }
EXPORT ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t at) { return fd_fails("write", fd) ? -1 : REAL(pwritev64)(fd, data, count, at); }
EXPORT int fsync(int fd) { return fd_fails("fsync", fd) ? -1 : REAL(fsync)(fd); }
EXPORT int fdatasync(int fd) { return fd_fails("fdatasync", fd) ? -1 : REAL(fdatasync)(fd); }
EXPORT int ftruncate(int fd, off_t size) { return fd_fails("truncate", fd) ? -1 : REAL(ftruncate)(fd, size); }
EXPORT int ftruncate64(int fd, off64_t size) { return fd_fails("truncate", fd) ? -1 : REAL(ftruncate64)(fd, size); }

static int opened(int dir, const char *path, int flags, mode_t mode) {
  if ((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0 && path_fails("open", dir, path, NULL)) return -1;
  return (int)syscall(SYS_openat, dir, path, flags, mode);
}
#define MODE_OF(flags) \
  mode_t mode = 0; \
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }
EXPORT int open(const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(AT_FDCWD, path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(AT_FDCWD, path, flags, mode);
}
EXPORT int openat(int dir, const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(dir, path, flags, mode);
}
EXPORT int openat64(int dir, const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(dir, path, flags, mode);
}
EXPORT int rename(const char *from, const char *to) { return path_fails("rename", AT_FDCWD, to, from) ? -1 : REAL(rename)(from, to); }
EXPORT int link(const char *from, const char *to) { return path_fails("link", AT_FDCWD, to, NULL) ? -1 : REAL(link)(from, to); }
EXPORT int unlink(const char *path) { return path_fails("unlink", AT_FDCWD, path, NULL) ? -1 : REAL(unlink)(path); }
EXPORT int unlinkat(int dir, const char *path, int flags) { return path_fails("unlink", dir, path, NULL) ? -1 : REAL(unlinkat)(dir, path, flags); }
EXPORT int mkdir(const char *path, mode_t mode) { return path_fails("mkdir", AT_FDCWD, path, NULL) ? -1 : REAL(mkdir)(path, mode); }
