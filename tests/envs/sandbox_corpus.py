"""Ordinary programs, which the system-call filter must let work; each prints "done" at its end."""

# ruff: noqa: E501

LIBRARY = """
import asyncio, bz2, concurrent.futures, ctypes, datetime, decimal, fcntl, gzip, hashlib, io, json, locale, logging, lzma
import mmap, multiprocessing, os, pickle, platform, pty, queue, random, resource, secrets, select, shelve, shutil, signal
import socket, sqlite3, ssl, stat, subprocess, sys, tarfile, tempfile, termios, threading, time, tty, uuid, zipfile, zlib

def square(number): return number * number

def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open('a', 'wb') as file:
            file.write(os.urandom(300_000)); file.flush(); os.fsync(file); os.fdatasync(file)
        shutil.copy2('a', 'b'); shutil.copytree('.', '../' + os.path.basename(folder) + '.copy'); os.link('a', 'c')
        shutil.rmtree('../' + os.path.basename(folder) + '.copy'); os.symlink('a', 'd'); os.utime('a', (1, 2)); os.chmod('a', 0o644)
        os.rename('c', 'e'); os.truncate('e', 10); os.mkfifo('pipe'); os.stat('a'); os.statvfs('.'); list(os.scandir('.'))
        assert os.listxattr('a') == []
        for kind in ('w:gz', 'w:bz2', 'w:xz'):
            with tarfile.open('t', kind) as archive: archive.add('b')
            with tarfile.open('t') as archive: archive.extractall('out')
        with zipfile.ZipFile('z', 'w', zipfile.ZIP_DEFLATED) as archive: archive.write('b')
        zipfile.ZipFile('z').extractall('out2')
        with shelve.open('shelf') as shelf: shelf['a'] = 1
        with sqlite3.connect('db') as connection:
            connection.execute('pragma journal_mode=wal'); connection.execute('create table t (x)')
            connection.executemany('insert into t values (?)', [(i,) for i in range(100)])
        connection.close()
        with open('b', 'r+b') as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:4] = b'abcd'; mapped.flush(); mapped.madvise(mmap.MADV_DONTNEED)
        with open('lock', 'w') as file: fcntl.flock(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_UN)
        with open('b', 'rb') as source, open('f', 'wb') as target:
            shutil.copyfile('b', 'g'); os.copy_file_range(source.fileno(), target.fileno(), 1000)
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL); os.posix_fallocate(target.fileno(), 0, 9000)
        os.chdir('/')
    with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(square, range(10))) == 285
    for way in ('fork', 'spawn', 'forkserver'):
        context = multiprocessing.get_context(way)
        with context.Pool(2) as pool: assert pool.map(square, range(4)) == [0, 1, 4, 9]
        shared = context.Value('i', 1); channel = context.Queue(); channel.put(shared.value); assert channel.get() == 1
        channel.close(); channel.join_thread()
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=4096); block.buf[0] = 1; block.close(); block.unlink()
    assert subprocess.run(['sh', '-c', 'cat; exit 3'], input=b'x', capture_output=True, start_new_session=True).returncode == 3
    assert subprocess.run('echo hi | tr a-z A-Z', shell=True, capture_output=True, cwd='/', umask=0o22).stdout == b'HI\\n'
    try: subprocess.run(['sleep', '9'], timeout=0.05)
    except subprocess.TimeoutExpired: pass
    assert os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)[1]) == 0
    os.waitid(os.P_PIDFD, os.pidfd_open(os.posix_spawn('/bin/true', ['true'], {})), os.WEXITED)
    async def serve():
        async def answer(reader, writer): writer.write(await reader.readline()); await writer.drain(); writer.close()
        server = await asyncio.start_server(answer, '127.0.0.1', 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b'x\\n'); assert await reader.readline() == b'x\\n'; writer.close(); server.close()
        process = await asyncio.create_subprocess_exec('true'); await process.wait()
        await asyncio.to_thread(time.sleep, 0.01); await asyncio.wait_for(asyncio.sleep(0.01), 1)
    asyncio.run(serve())
    here, there = socket.socketpair(); socket.send_fds(here, [b'x'], [0]); socket.recv_fds(there, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one: one.bind(('127.0.0.1', 0)); one.sendto(b'x', one.getsockname()); one.recv(1)
    with socket.socket() as one: one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); one.settimeout(1)
    socket.getaddrinfo('127.0.0.1', 80); socket.if_nameindex(); socket.gethostname(); ssl.create_default_context()
    signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause(); signal.alarm(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); os.kill(os.getpid(), signal.SIGUSR1); signal.sigtimedwait([signal.SIGUSR1], 1)
    poll = select.epoll(); poll.register(here, select.EPOLLOUT); poll.poll(0); select.select([], [here], [], 0)
    main_end, end = os.openpty(); tty.setraw(end); os.write(main_end, b'x'); os.read(end, 1); os.get_terminal_size(end); os.ttyname(end)
    pid, fd = pty.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    os.sched_setaffinity(0, os.sched_getaffinity(0)); os.nice(0); os.getpriority(os.PRIO_PROCESS, 0); os.sched_yield(); os.getloadavg()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); resource.getrusage(resource.RUSAGE_CHILDREN); os.getrandom(8); os.sync()
    ctypes.CDLL(None).getpid(); locale.setlocale(locale.LC_ALL, ''); decimal.Decimal(2).sqrt(); uuid.uuid1(); uuid.uuid4()
    platform.platform(); time.get_clock_info('monotonic'); time.process_time(); datetime.datetime.now().astimezone(); secrets.token_hex()
    threading.stack_size(1 << 20); thread = threading.Thread(target=time.sleep, args=(0.01,)); thread.start(); thread.join()

if __name__ == '__main__':
    main()
    print('done')
"""
NUMPY = """
import numpy as np
random = np.random.default_rng(0)
square = random.standard_normal((300, 300))
np.linalg.svd(square @ square); np.linalg.solve(square, square); np.fft.fft2(square); np.sort(square, axis=None)
np.save('/tmp/saved.npy', square); np.load('/tmp/saved.npy', mmap_mode='r').sum(); np.einsum('ij,jk->ik', square, square)
big = np.zeros((4096, 4096)); big += 1
print('done')
"""
BASH = r"""
set -euo pipefail
cd "$(mktemp -d)"
for i in $(seq 300); do echo "line $((RANDOM % 100)) $i"; done > lines
sort -k2n --parallel=2 lines | uniq -c | awk '{ sum += $1 } END { print sum }' | grep -q '^300$'
find . -type f -print0 | xargs -0 -P 2 -n 1 wc -l > counts
tar czf lines.tgz lines && tar xzf lines.tgz && gzip -k lines && gunzip -c lines.gz | cmp - lines
cp -a lines copy; mv copy moved; ln -s moved link; chmod 600 moved; touch -d yesterday moved; install -m 755 moved run
dd if=/dev/zero of=zeros bs=4k count=10 conv=fsync status=none; truncate -s 1M zeros; split -b 64k zeros part.; sync zeros
sed -i s/line/row/ lines; diff <(head -3 lines) <(head -3 lines); cat <<END | tee here > /dev/null
text
END
timeout 5 sleep 0.01; (sleep 0.01 & wait); coproc cat; echo x >&"${COPROC[1]}"; read -r -u "${COPROC[0]}" line; [ "$line" = x ]
trap 'true' USR1; kill -USR1 $$; ( flock -n 9 ) 9> lock; date > /dev/null; id > /dev/null; env > /dev/null; df . > /dev/null
nice -n 1 true; nohup true 2> /dev/null; stdbuf -o0 true; mkfifo pipe; (echo y > pipe &); read -r line < pipe; ulimit -n > /dev/null
exec 5<> both; echo z >&5; stat -f . > /dev/null; ls -la --color=always > /dev/null; du -s . > /dev/null; nproc > /dev/null
(setsid true; script -qec true /dev/null < /dev/null > /dev/null) 2> /dev/null || :; printf '%s\n' {1..50} | shuf | sort -R | head -1 > /dev/null
echo done
"""
COMPILER = r"""
set -e
cd "$(mktemp -d)"
cat > one.c <<END
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
static void *work(void *value) { return value; }
int main(void) {
    pthread_t thread;
    void *memory = malloc(1 << 22), *mapped = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_create(&thread, 0, work, memory);
    pthread_join(thread, 0);
    printf("%s\n", mapped != MAP_FAILED && sqrt(4.0) == 2.0 ? "done" : "failed");
    return system("true");
}
END
gcc -O2 -g -pipe -Wall -o one one.c -lm -lpthread
./one
"""
