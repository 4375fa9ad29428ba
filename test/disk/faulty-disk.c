/*
 * A disk that stalls or fails when it is told to: preloaded into the gate's process by the tests (LD_PRELOAD), before the C library.
 *
 *   FAULTY_DISK_FOLDER   only files below this folder are touched
 *   FAULTY_DISK_ORDER    a file; its first word is the order, read at every call:
 *                          stall   syncs wait until the order changes (as a card does while it erases)
 *                          eio     syncs fail with EIO
 *                          full    writes fail with ENOSPC
 *                          anything else, or no file: nothing happens
 *
 * Everything else, and every other file, goes straight through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STEP_MS 2

static int concerned(int fd) {
  const char *folder = getenv("FAULTY_DISK_FOLDER");
  char link[64], path[4096];
  if (folder == NULL) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return strncmp(path, folder, strlen(folder)) == 0;
}

enum order { NONE, STALL, FAIL, FULL };

static enum order order(void) {
  const char *name = getenv("FAULTY_DISK_ORDER");
  char text[8] = "";
  int fd = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return NONE;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return NONE;
  return strncmp(text, "stall", 5) == 0 ? STALL : strncmp(text, "eio", 3) == 0 ? FAIL : strncmp(text, "full", 4) == 0 ? FULL : NONE;
}

static int obey(const char *name, int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (concerned(fd)) {
    struct timespec step = {0, STEP_MS * 1000000L};
    while (order() == STALL) nanosleep(&step, NULL);
    if (order() == FAIL) {
      errno = EIO;
      return -1;
    }
  }
  return real(fd);
}

int fsync(int fd) { return obey("fsync", fd); }
int fdatasync(int fd) { return obey("fdatasync", fd); }

/* Whether there is no room for what is to be written to this file; errno says so then. */
static int no_room(int fd) {
  if (order() != FULL || !concerned(fd)) return 0;
  errno = ENOSPC;
  return 1;
}

typedef ssize_t (*writer)(int, const void *, size_t);
typedef ssize_t (*placer)(int, const void *, size_t, off64_t);

ssize_t write(int fd, const void *bytes, size_t length) { return no_room(fd) ? -1 : ((writer)dlsym(RTLD_NEXT, "write"))(fd, bytes, length); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
  return no_room(fd) ? -1 : ((placer)dlsym(RTLD_NEXT, "pwrite64"))(fd, bytes, length, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
  return no_room(fd) ? -1 : ((placer)dlsym(RTLD_NEXT, "pwrite64"))(fd, bytes, length, at);
}
