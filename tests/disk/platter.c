/* A disk that can lose power: a file system of two files, for a loop device to stand on.
 *
 *   platter DIRECTORY MEBIBYTES      mounts itself there and stays in the foreground until it is unmounted
 *
 *   DIRECTORY/disk      the device's bytes, kept in memory
 *   DIRECTORY/control   takes one command per write: "cut PATH SEED"
 *
 * It behaves as a drive with a volatile cache: what was written is read back at once, and is safe when the flush after it has
 * returned. `cut` writes to PATH what would be found after the power failed at this instant: everything that was flushed, and
 * of what was written since whatever SEED lets through, sector by sector, in any combination. The disk itself goes on, so that
 * one run can be cut many times. Nothing is served while a command is carried out, so a cut is one instant. */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512
#define PAGE   4096

static struct {
    size_t size;
    uint8_t *now;  /* as read: with everything that was written */
    uint8_t *safe; /* as of the last flush */
    bool *dirty;   /* per sector: written since the last flush */
    size_t *list;  /* the dirty sectors, in the order in which they became so */
    size_t dirty_count;
} disk;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static void flush(void)
{
    for (size_t i = 0; i < disk.dirty_count; i++) {
        size_t at = disk.list[i] * SECTOR;
        memcpy(disk.safe + at, disk.now + at, SECTOR);
        disk.dirty[disk.list[i]] = false;
    }
    disk.dirty_count = 0;
}

/* Of the unsafe sectors an eighth, a half, or all but an eighth get through: a drive may have begun, or nearly be done. */
static void survivors(uint8_t *image, uint64_t seed)
{
    uint64_t state = seed, eighths = (uint64_t[]){1, 4, 7}[next_random(&state) % 3];
    for (size_t i = 0; i < disk.dirty_count; i++) {
        size_t at = disk.list[i] * SECTOR;
        if (next_random(&state) % 8 < eighths)
            memcpy(image + at, disk.now + at, SECTOR);
    }
}

/* Pages of zeros are left out: the file has holes there. */
static int write_image(const char *path, const uint8_t *image)
{
    static const uint8_t zeros[PAGE];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int failed = fd < 0 || ftruncate(fd, (off_t)disk.size) < 0 ? errno : 0;
    for (size_t at = 0; !failed && at < disk.size; at += PAGE)
        if (memcmp(image + at, zeros, PAGE) != 0 && pwrite(fd, image + at, PAGE, (off_t)at) != PAGE)
            failed = errno ? errno : EIO;
    if (fd >= 0 && close(fd) < 0 && !failed)
        failed = errno;
    return failed;
}

static int cut(const char *path, uint64_t seed)
{
    uint8_t *image = malloc(disk.size);
    if (!image)
        return ENOMEM;
    memcpy(image, disk.safe, disk.size);
    survivors(image, seed);
    int failed = write_image(path, image);
    free(image);
    return failed;
}

static int command(const char *text, size_t len)
{
    char line[4096], path[2048];
    unsigned long long seed;
    if (len >= sizeof line)
        return -EINVAL;
    memcpy(line, text, len);
    line[len] = '\0';
    if (sscanf(line, "cut %2047s %llu", path, &seed) != 2)
        return -EINVAL;
    int failed = cut(path, seed);
    return failed ? -failed : (int)len;
}

/* ---- the file system ---- */

static bool is_disk(const char *path)
{
    return strcmp(path, "/disk") == 0;
}

static int on_getattr(const char *path, struct stat *st, struct fuse_file_info *file)
{
    bool root = strcmp(path, "/") == 0;
    *st = (struct stat){.st_mode = root ? S_IFDIR | 0700 : S_IFREG | 0600, .st_nlink = root ? 2 : 1};
    if (is_disk(path))
        st->st_size = (off_t)disk.size;
    return root || is_disk(path) || strcmp(path, "/control") == 0 ? 0 : -ENOENT;
}

static int on_read(const char *path, char *out, size_t len, off_t from, struct fuse_file_info *file)
{
    size_t at = (size_t)from;
    if (!is_disk(path) || at >= disk.size)
        return 0;
    len = len < disk.size - at ? len : disk.size - at;
    memcpy(out, disk.now + at, len);
    return (int)len;
}

static int on_write(const char *path, const char *data, size_t len, off_t from, struct fuse_file_info *file)
{
    size_t at = (size_t)from;
    if (!is_disk(path))
        return command(data, len);
    if (at > disk.size || len > disk.size - at)
        return -ENOSPC;
    memcpy(disk.now + at, data, len);
    for (size_t sector = at / SECTOR; len && sector <= (at + len - 1) / SECTOR; sector++)
        if (!disk.dirty[sector]) {
            disk.dirty[sector] = true;
            disk.list[disk.dirty_count++] = sector;
        }
    return (int)len;
}

static int on_fsync(const char *path, int only_data, struct fuse_file_info *file)
{
    if (is_disk(path))
        flush();
    return 0;
}

/* What opens it with O_TRUNC does not change its size. */
static int on_truncate(const char *path, off_t size, struct fuse_file_info *file)
{
    return 0;
}

static void *memory(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        perror("platter");
        exit(1);
    }
    return at;
}

int main(int argc, char **argv)
{
    unsigned long mib = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    if (!mib || mib > 4096) {
        fputs("Usage: platter DIRECTORY MEBIBYTES\n", stderr);
        return 2;
    }
    disk.size = mib << 20;
    disk.now = memory(disk.size);
    disk.safe = memory(disk.size);
    disk.dirty = memory(disk.size / SECTOR * sizeof *disk.dirty);
    disk.list = memory(disk.size / SECTOR * sizeof *disk.list);
    static const struct fuse_operations operations = {
        .getattr = on_getattr, .read = on_read, .write = on_write, .fsync = on_fsync, .truncate = on_truncate};
    /* -s: one thread, so a command and a write never overlap */
    char *args[] = {argv[0], "-f", "-s", argv[1], NULL};
    return fuse_main(4, args, &operations, NULL);
}
