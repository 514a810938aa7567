case $- in
    *i*) ;;
      *) return ;;
esac
PS1='\u@\h:\w\$ '
alias ll='ls -l'
