/*
 * Writes down, in order, all that a process asks of the files below one folder: preloaded (LD_PRELOAD), before the C library.
 *
 *   RECORDING_DISK_FOLDER   what lies below it is recorded
 *   RECORDING_DISK_LOG      the record; made anew, outside the folder
 *   RECORDING_DISK_MARKS    writes to this file are recorded as marks: what the process says of itself between its calls
 *
 * One entry: op (1 byte), 7 bytes of nothing, inode, offset, length of path, length of second path, length of data (8 bytes each, the
 * machine's own order), then path, second path, data. Paths are relative to the folder. Each call is done and written down under one
 * lock, so that the order is the one in which things happened. A call that would change a file and cannot be written down (a shared
 * writable mapping of anything but SQLite's -shm, io_uring) ends the process: a record with a hole proves nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, SYNC, CREATE, RENAME, UNLINK, MKDIR, LINK, MARK };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder, *marks;
static size_t folder_length;
static int record = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void die(const char *what) {
  char text[256];
  int length = snprintf(text, sizeof text, "recording-disk: %s\n", what);
  (void)!syscall(SYS_write, 2, text, length);
  _exit(97);
}

__attribute__((constructor)) static void begin(void) {
  folder = getenv("RECORDING_DISK_FOLDER");
  marks = getenv("RECORDING_DISK_MARKS");
  const char *log = getenv("RECORDING_DISK_LOG");
  if (folder == NULL || log == NULL) return;
  folder_length = strlen(folder);
  record = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  if (record < 0) die("the record cannot be made");
}

static void put(int op, uint64_t inode, int64_t offset, const char *path, const char *second, const struct iovec *data, int count, size_t bytes) {
  int64_t head[6] = {op, (int64_t)inode, offset, path ? (int64_t)strlen(path) : 0, second ? (int64_t)strlen(second) : 0, (int64_t)bytes};
  struct iovec parts[3] = {{head, sizeof head}, {(void *)path, (size_t)head[3]}, {(void *)second, (size_t)head[4]}};
  if (syscall(SYS_writev, record, parts, 3) != (long)(sizeof head + (size_t)head[3] + (size_t)head[4])) die("the record cannot be written");
  for (int n = 0; n < count && bytes > 0; n++) {
    size_t part = data[n].iov_len < bytes ? data[n].iov_len : bytes;
    if (syscall(SYS_write, record, data[n].iov_base, part) != (long)part) die("the record cannot be written");
    bytes -= part;
  }
}

/* The path below the folder, or NULL. */
static const char *below(const char *path) {
  if (strncmp(path, folder, folder_length) != 0) return NULL;
  if (path[folder_length] == 0) return "";
  return path[folder_length] == '/' ? path + folder_length + 1 : NULL;
}

/* Of an open file: its path (below the folder, or the marks' file: then *mark), and its inode. NULL: not ours. */
static const char *of_fd(int fd, char *path, uint64_t *inode, int *mark) {
  char link[64];
  struct stat is;
  if (record < 0 || fd == record) return NULL;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = syscall(SYS_readlink, link, path, PATH_MAX - 1);
  if (length <= 0) return NULL;
  path[length] = 0;
  *mark = marks != NULL && strcmp(path, marks) == 0;
  const char *found = *mark ? path : below(path);
  if (found == NULL) return NULL;
  if (fstat(fd, &is) != 0 || (!S_ISREG(is.st_mode) && !S_ISDIR(is.st_mode))) return NULL;
  *inode = is.st_ino;
  return found;
}

/* A path as given, made absolute as far as the folder matters: our callers always name absolute paths. */
static const char *named(int dir, const char *path, char *full) {
  if (record < 0 || path == NULL) return NULL;
  if (path[0] != '/') {
    char link[64];
    size_t length;
    if (dir == AT_FDCWD) {
      if (getcwd(full, PATH_MAX) == NULL) return NULL;
      length = strlen(full);
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
      ssize_t got = syscall(SYS_readlink, link, full, PATH_MAX - 1);
      if (got <= 0) return NULL;
      length = (size_t)got;
    }
    snprintf(full + length, PATH_MAX - length, "/%s", path);
    return below(full);
  }
  return below(path);
}

static int is_shm(const char *path) {
  size_t length = strlen(path);
  return length > 4 && strcmp(path + length - 4, "-shm") == 0;
}

static ssize_t wrote(int fd, ssize_t result, int64_t offset, const struct iovec *data, int count) {
  char path[PATH_MAX];
  uint64_t inode;
  int mark;
  if (result <= 0) return result;
  const char *at = of_fd(fd, path, &inode, &mark);
  if (at == NULL) return result;
  if (offset < 0) offset = syscall(SYS_lseek, fd, 0, SEEK_CUR) - result;
  put(mark ? MARK : WRITE, inode, offset, at, NULL, data, count, (size_t)result);
  return result;
}

#define LOCKED(type, call) \
  pthread_mutex_lock(&lock); \
  type result = call; \
  int error = errno; \
  (void)error;
#define DONE \
  pthread_mutex_unlock(&lock); \
  errno = error; \
  return result;

#define WRITER(name, offset_type) \
  ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
    struct iovec one = {(void *)data, size}; \
    LOCKED(ssize_t, REAL(name)(fd, data, size, offset)) \
    wrote(fd, result, offset, &one, 1); \
    DONE \
  }
WRITER(pwrite, off_t)
WRITER(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size) {
  struct iovec one = {(void *)data, size};
  LOCKED(ssize_t, REAL(write)(fd, data, size))
  wrote(fd, result, -1, &one, 1);
  DONE
}
ssize_t writev(int fd, const struct iovec *data, int count) {
  LOCKED(ssize_t, REAL(writev)(fd, data, count))
  wrote(fd, result, -1, data, count);
  DONE
}
ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset) {
  LOCKED(ssize_t, REAL(pwritev)(fd, data, count, offset))
  wrote(fd, result, offset, data, count);
  DONE
}
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset) {
  LOCKED(ssize_t, REAL(pwritev64)(fd, data, count, offset))
  wrote(fd, result, offset, data, count);
  DONE
}

static void cut(int fd, int64_t size) {
  char path[PATH_MAX];
  uint64_t inode;
  int mark;
  const char *at = of_fd(fd, path, &inode, &mark);
  if (at != NULL && !mark) put(TRUNCATE, inode, size, at, NULL, NULL, 0, 0);
}
int ftruncate(int fd, off_t size) {
  LOCKED(int, REAL(ftruncate)(fd, size))
  if (result == 0) cut(fd, size);
  DONE
}
int ftruncate64(int fd, off64_t size) {
  LOCKED(int, REAL(ftruncate64)(fd, size))
  if (result == 0) cut(fd, size);
  DONE
}

static void synced(int fd) {
  char path[PATH_MAX];
  uint64_t inode;
  int mark;
  const char *at = of_fd(fd, path, &inode, &mark);
  if (at != NULL && !mark) put(SYNC, inode, 0, at, NULL, NULL, 0, 0);
}
int fsync(int fd) {
  LOCKED(int, REAL(fsync)(fd))
  if (result == 0) synced(fd);
  DONE
}
int fdatasync(int fd) {
  LOCKED(int, REAL(fdatasync)(fd))
  if (result == 0) synced(fd);
  DONE
}

static int opened(int dir, const char *path, int flags, mode_t mode) {
  char full[PATH_MAX];
  struct stat was;
  const char *at = named(dir, path, full);
  /* Others are not held up by the lock: opening a pipe may wait for its other end. */
  if (at == NULL || (flags & (O_CREAT | O_TRUNC)) == 0) return (int)syscall(SYS_openat, dir, path, flags, mode);
  pthread_mutex_lock(&lock);
  int existed = fstatat(dir, path, &was, 0) == 0;
  int result = (int)syscall(SYS_openat, dir, path, flags, mode);
  int error = errno;
  if (result >= 0) {
    struct stat is;
    fstat(result, &is);
    if (!existed) put(CREATE, is.st_ino, 0, at, NULL, NULL, 0, 0);
    else if ((flags & O_TRUNC) != 0 && was.st_size > 0) put(TRUNCATE, is.st_ino, 0, at, NULL, NULL, 0, 0);
  }
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
#define MODE_OF(flags) \
  mode_t mode = 0; \
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }
int open(const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(AT_FDCWD, path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(dir, path, flags, mode);
}

int rename(const char *from, const char *to) {
  char one[PATH_MAX], two[PATH_MAX];
  struct stat is = {0};
  const char *a = named(AT_FDCWD, from, one), *b = named(AT_FDCWD, to, two);
  if ((a == NULL) != (b == NULL)) die("a file is renamed into or out of the folder");
  LOCKED(int, REAL(rename)(from, to))
  if (result == 0 && a != NULL) {
    lstat(to, &is);
    put(RENAME, is.st_ino, 0, a, b, NULL, 0, 0);
  }
  DONE
}
int link(const char *from, const char *to) {
  char one[PATH_MAX], two[PATH_MAX];
  struct stat is = {0};
  const char *a = named(AT_FDCWD, from, one), *b = named(AT_FDCWD, to, two);
  LOCKED(int, REAL(link)(from, to))
  if (result == 0 && b != NULL) {
    lstat(to, &is);
    put(LINK, is.st_ino, 0, a == NULL ? "" : a, b, NULL, 0, 0);
  }
  DONE
}
static int removed(int dir, const char *path, int flags) {
  char full[PATH_MAX];
  const char *at = named(dir, path, full);
  LOCKED(int, (int)syscall(SYS_unlinkat, dir, path, flags))
  if (result == 0 && at != NULL) put(UNLINK, 0, 0, at, NULL, NULL, 0, 0);
  DONE
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
  struct stat is;
  return removed(AT_FDCWD, path, lstat(path, &is) == 0 && S_ISDIR(is.st_mode) ? AT_REMOVEDIR : 0);
}
int unlinkat(int dir, const char *path, int flags) { return removed(dir, path, flags); }
int mkdir(const char *path, mode_t mode) {
  char full[PATH_MAX];
  struct stat is = {0};
  const char *at = named(AT_FDCWD, path, full);
  LOCKED(int, REAL(mkdir)(path, mode))
  if (result == 0 && at != NULL) {
    lstat(path, &is);
    put(MKDIR, is.st_ino, 0, at, NULL, NULL, 0, 0);
  }
  DONE
}

/* Ways of changing a file that nothing here uses: if that changes, the record must learn them. */
static void refuse(int fd, const char *what) {
  char path[PATH_MAX];
  uint64_t inode;
  int mark;
  if (of_fd(fd, path, &inode, &mark) != NULL) die(what);
}
void *mmap(void *where, size_t size, int protection, int flags, int fd, off_t offset) {
  char path[PATH_MAX];
  uint64_t inode;
  int mark;
  if (fd >= 0 && (protection & PROT_WRITE) != 0 && (flags & MAP_SHARED) != 0 && of_fd(fd, path, &inode, &mark) != NULL && !is_shm(path))
    die("a shared writable mapping");
  return (void *)syscall(SYS_mmap, where, size, protection, flags, fd, offset);
}
int fallocate(int fd, int mode, off_t offset, off_t size) {
  refuse(fd, "fallocate");
  return REAL(fallocate)(fd, mode, offset, size);
}
int posix_fallocate(int fd, off_t offset, off_t size) {
  refuse(fd, "posix_fallocate");
  return REAL(posix_fallocate)(fd, offset, size);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
  refuse(to, "sendfile");
  return REAL(sendfile)(to, from, offset, size);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
  refuse(to, "sendfile");
  return REAL(sendfile64)(to, from, offset, size);
}
ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t size, unsigned flags) {
  refuse(to, "copy_file_range");
  return REAL(copy_file_range)(from, in, to, out, size, flags);
}
