/*
 * A disk that stalls or fails when it is told to: preloaded into the gate's process by the tests (LD_PRELOAD), before the C library.
 *
 *   FAULTY_DISK_FOLDER   only files below this folder are touched
 *   FAULTY_DISK_ORDER    a file; its first word is the order, read at every call:
 *                          stall   syncs wait until the order changes (as a card does while it erases)
 *                          eio     syncs fail with EIO
 *                          anything else, or no file: nothing happens
 *
 * What is not a sync of such a file goes straight through.
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

/* 0: none, 1: stall, 2: eio. */
static int order(void) {
  const char *name = getenv("FAULTY_DISK_ORDER");
  char text[8] = "";
  int fd = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return 0;
  return strncmp(text, "stall", 5) == 0 ? 1 : strncmp(text, "eio", 3) == 0 ? 2 : 0;
}

static int obey(const char *name, int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (concerned(fd)) {
    struct timespec step = {0, STEP_MS * 1000000L};
    while (order() == 1) nanosleep(&step, NULL);
    if (order() == 2) {
      errno = EIO;
      return -1;
    }
  }
  return real(fd);
}

int fsync(int fd) { return obey("fsync", fd); }
int fdatasync(int fd) { return obey("fdatasync", fd); }
