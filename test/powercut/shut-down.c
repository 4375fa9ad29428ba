/* Ends a mounted ext4 as a power cut would: nothing more is written, not even its journal. shut-down <folder on it>
 * Prints the moment before it (CLOCK_MONOTONIC, ns): an fsync that is under way then may still be answered as if it had been done. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define GOING_FLAGS_NOLOGFLUSH 2

int main(int count, char **words) {
  uint32_t flags = GOING_FLAGS_NOLOGFLUSH;
  int fd = count == 2 ? open(words[1], O_RDONLY) : -1;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (fd < 0 || ioctl(fd, EXT4_IOC_SHUTDOWN, &flags) != 0) {
    perror("shut-down");
    return 1;
  }
  printf("%lld\n", (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
  return 0;
}
