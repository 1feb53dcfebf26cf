"""`rawmmsg record`: writes what an interface receives and sends to files.

Each module uses only those below it:

command     the command line
stalls      ends a recording to a pipe whose reader takes nothing
display     the lines of statistics and the summary
recorder    receives and writes until it is to end
files       one file, or a new one by size or time
"""
