"""Programs that CodeRepair runs in the sandbox, beside a project's files.

Both read stdin, import the project and print; what the project itself prints goes to stderr. Neither knows the
result that a hidden check expects, so that no manipulation by a project can pass one.
"""

# Names of test files -> failures. A failing `assert f(...) == value` is shown with the value that came instead.
SUITE = """
def _describe(error, module):
    import ast, linecache
    where, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals is vars(module):
            where = step
        step = step.tb_next
    line = linecache.getline(module.__file__, where.tb_lineno).strip() if where else ""
    if isinstance(error, AssertionError) and line.startswith("assert "):
        test = ast.parse(line).body[0].test
        if isinstance(test, ast.Compare):
            got = eval(compile(ast.Expression(test.left), "got", "eval"), vars(module))
            return "%s, got %s" % (line, ascii(got)[:200])
    return "%s: %s: %s" % (line, type(error).__name__, str(error)[:200])


def _suite():
    import importlib, os, sys
    sys.dont_write_bytecode = True
    out, sys.stdout = sys.stdout, sys.stderr
    failures, count = [], 0
    for name in sys.stdin.read().split():
        try:
            module = importlib.import_module(name)
        except BaseException as error:
            count += 1
            failures.append("%s.py cannot be imported: %s: %s" % (name, type(error).__name__, str(error)[:200]))
            continue
        tests = [(test, value) for test, value in vars(module).items() if test.startswith("test_")]
        for test, function in tests:
            count += 1
            try:
                function()
            except BaseException as error:
                try:
                    reason = _describe(error, module)
                except BaseException:
                    reason = type(error).__name__
                failures.append("%s.py %s: %s" % (name, test, reason))
    here = os.getcwd() + os.sep
    for failure in failures[:20]:
        print("FAIL", failure.replace(here, ""), file=out)
    if len(failures) > 20:
        print("...", file=out)
    if failures:
        print("%d of %d tests fail." % (len(failures), count), file=out)
    else:
        print("All %d tests pass. Give the final answer." % count, file=out)
    out.flush()
_suite()
"""

# Lines of [module, function, arguments] -> the function's results, one per line.
ANSWERS = """
def _answers():
    import importlib, json, sys
    sys.dont_write_bytecode = True
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin.read().splitlines():
        name, function, arguments = json.loads(line)
        try:
            answer = ascii(getattr(importlib.import_module(name), function)(*arguments))
        except BaseException as error:
            answer = "raises " + type(error).__name__
        print(answer, file=out, flush=True)
_answers()
"""
